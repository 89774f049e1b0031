"""Start train.py as a program, or as a fork of this process, which has imported what it needs.

A fork begins at once; a program imports PyTorch first, which takes seconds. Both compute the same,
bit for bit.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TextIO

from trainers.prompting.errors import UserError

Started = tuple[int, Callable[[], int | None]]  # the `pid` and `poll` of a process


@dataclass
class Process:
    """A process in its own process group.

    Ctrl-C therefore reaches only the launcher, and a signal to the group also reaches data loaders.
    """

    pid: int
    poll: Callable[[], int | None]  # the exit code, negative for a signal; None while it runs
    out: int  # file descriptors: our ends of its pipes
    errors: int


class Starter:
    """Starts runs as forks of this process where possible, else as programs.

    Args:
        forks: False for runs on a GPU, whose driver may not survive a fork. Only Linux forks.
    """

    def __init__(self, forks: bool):
        self._may_fork = forks and sys.platform == "linux"
        self._threads = 0  # the most threads that this process may have to fork; 0: never fork

    def warm_up(self, plugins: Iterable[str]) -> None:
        """Import what runs need. Import errors are left to the runs, which report them."""
        if not self._may_fork or self._threads:
            return
        try:
            train = import_module("train")
            train.warm_up()
            threads = _threads()
            train.warm_up(plugins)
        except (UserError, ImportError):
            return
        self._threads = threads
        if _threads() > threads:
            print("A plug-in starts threads: each run imports PyTorch by itself", file=sys.stderr)

    def start(self, command: list[str], environment: dict[str, str]) -> Process:
        """Start the command line of a run, with further environment variables.

        Raises:
            OSError: the process cannot be started.
        """
        # A fork loses all threads, and hangs if OpenMP had started any. OpenBLAS ends its threads
        # before a fork.
        launch = _fork if 0 < _threads() <= self._threads else _program
        out, out_end = os.pipe()
        errors, errors_end = os.pipe()
        try:
            pid, poll = launch(command, environment, out_end, errors_end)
            return Process(pid, poll, out, errors)
        except BaseException:
            os.close(out)
            os.close(errors)
            raise
        finally:
            os.close(out_end)
            os.close(errors_end)


def _threads() -> int:
    """Return the number of threads of this process, including those of libraries; 0 if unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _program(command: list[str], environment: dict[str, str], out: int, errors: int) -> Started:
    """Start a program; return its process id and a function that polls its exit code."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=errors,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        start_new_session=True,
    )
    return process.pid, process.poll


def _fork(command: list[str], environment: dict[str, str], out: int, errors: int) -> Started:
    """Fork this process to do the run; returns the same as `_program`."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_be, args=(command[1:], environment, out, errors))
    process.start()
    assert process.pid is not None, "it has started"
    os.setpgid(process.pid, process.pid)
    return process.pid, lambda: process.exitcode


def _be(words: list[str], environment: dict[str, str], out: int, errors: int) -> None:
    """Do a run in a fork, as if this process were the program with these arguments."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(errors, 2)
    # Locks and other files that the launcher has open for other runs must be released when the
    # launcher ends, and its terminal is not for the run. Python objects still refer to these
    # descriptors, so they are redirected to /dev/null, not closed.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in (1, 2):
            os.dup2(nowhere, descriptor)
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    os.environ.update(environment)
    sys.argv = words
    sys.exit(import_module("train").run(words[1:]))


def _stream(number: int) -> TextIO:
    errors = "backslashreplace"  # file names may not be valid UTF-8
    return open(number, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)
