"""Start a function in a process that has imported what runs need, and has computed nothing.

On Linux it is a fork of `multiprocessing`'s fork server, which has imported PyTorch, so it begins
at once; elsewhere it is a new process. This process is never forked: if it has computed in
threads, its fork would wait for threads that only this process has.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType

from ..protocols.configs import ROOT

INTERRUPTS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # besides Ctrl-C
if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("forkserver")
else:
    CONTEXT = multiprocessing.get_context("spawn")


def warm_up() -> None:
    """Start the fork server if it has not; it imports what runs need while we continue."""
    if sys.platform != "linux":
        return
    forkserver.set_forkserver_preload([f"{__package__}.preload"])
    path = os.environ.get("PYTHONPATH")
    resource_tracker.ensure_running()  # which would unblock these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *INTERRUPTS))
    try:
        # it finds this checkout's packages first
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


class Process:
    """A process that calls a function of a module, without input, in our environment and more.

    It appends what it prints to the file `console`. It has its own process group, so Ctrl-C reaches
    only the launcher, and a signal to the group also reaches data loaders.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, console: Path, environment: dict[str, str], function: Callable, *arguments):
        warm_up()
        words = (console, os.environ | environment, function, arguments)
        self._process = CONTEXT.Process(target=_be, args=words)
        # multiprocessing would run the caller's script in the process, and so this protocol again
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main
        assert self._process.pid is not None, "it has started"
        self.pid = self._process.pid  # also of its group
        self.sentinel = self._process.sentinel  # readable when it has ended

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode


def _be(console: Path, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    """Call the function as if this process were a program."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # names of files may not be valid UTF-8
    sys.stdout = open(console, "a", 1, "utf-8", "backslashreplace")  # noqa: SIM115
    sys.stderr = sys.stdout
    for number in (1, 2):  # for what is not Python
        os.dup2(sys.stdout.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if "SLURM_JOB_ID" in environment:
        threading.Thread(target=_follow, daemon=True).start()
    function(*arguments)


def _follow() -> None:
    """End this process and its workers when the launcher has ended.

    Slurm may kill only the launcher, and a later job would wait for a training that remains.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "it has started this process"
    launcher.join()
    os.killpg(0, signal.SIGKILL)
