"""Start a function in a process that has imported what runs need, and has computed nothing.

On Linux it is a fork of `multiprocessing`'s fork server, which has imported PyTorch, so it begins
at once; elsewhere it is a new process. This process is never forked: if it has computed in
threads, its fork would wait for threads that only this process has.
"""

import contextlib
import io
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

from ..protocols.configs import ROOT

INTERRUPTS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # besides Ctrl-C
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
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
        self._reason, reason = CONTEXT.Pipe(duplex=False)
        words = (console, reason, os.environ | environment, function, arguments)
        self._process = CONTEXT.Process(target=_be, args=words)
        # multiprocessing would run the caller's script in the process, and so this protocol again
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._process.start()
        except EOFError:
            raise OSError("the fork server has ended") from None
        finally:
            sys.modules["__main__"] = main
            reason.close()
        assert self._process.pid is not None, "it has started"
        self.pid = self._process.pid  # also of its group
        self.sentinel = self._process.sentinel  # readable when it has ended

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def last_error(self) -> str:
        """Return the error message at the end of its stderr, once it has ended; empty without."""
        with contextlib.suppress(EOFError):  # a signal has killed it
            if self._reason.poll():
                return self._reason.recv_bytes().decode()
        return ""


def _be(console: Path, reason: Connection, environment, function: Callable, arguments) -> None:
    """Call the function as if this process were a program."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out, errors = _Stream(console), _Stream(console, is_stderr=True)
    os.dup2(out.fileno(), 1)  # for what is not Python
    os.dup2(errors.fileno(), 2)
    sys.stdout, sys.stderr = out, errors
    os.environ.clear()
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if "SLURM_JOB_ID" in environment:
        threading.Thread(target=_follow, daemon=True).start()
    try:
        function(*arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=errors)
            sys.exit(1)
        raise
    except BaseException:
        traceback.print_exc(file=errors)
        sys.exit(1)
    finally:
        errors.finish()
        with contextlib.suppress(OSError):  # the launcher has ended, or the disk is full
            # it fits into the pipe: nobody reads it before the end
            sentence = last_sentence(errors.latest)[:2000]
            reason.send_bytes(sentence.encode(errors="backslashreplace"))
            out.finish()


def _follow() -> None:
    """End this process and its workers when the launcher has ended.

    Slurm may kill only the launcher, and a later job would wait for a training that remains.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "it has started this process"
    launcher.join()
    os.killpg(0, signal.SIGKILL)


class _Stream(io.TextIOWrapper):
    """Appends whole lines to a file, without what a terminal does not keep: bars and colours.

    That of stderr keeps its `latest` lines, and goes on if the disk is full: they may say so.
    """

    def __init__(self, path: Path, is_stderr: bool = False):
        raw = open(path, "ab", buffering=0)  # noqa: SIM115
        # names of files may not be valid UTF-8
        super().__init__(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore
        self.latest: deque[str] = deque(maxlen=200)
        self._is_stderr = is_stderr
        self._rest = ""

    def write(self, text: str) -> int:
        """Write the lines that are complete by now."""
        *lines, rest = (self._rest + text).split("\n")
        # A carriage return begins a line of a bar anew; after the last one, "\n" may follow.
        self._rest = rest[rest.rfind("\r", 0, -1) + 1 :]
        lines = [ESCAPES.sub("", line).rstrip().rpartition("\r")[2] for line in lines]
        self.latest.extend(filter(None, lines))
        try:
            super().write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            if not self._is_stderr:
                error.filename = str(self.name)  # for the sentence about a full disk
                raise
        return len(text)

    def finish(self) -> None:
        """Write the last line, which may lack a line break, unless it is of a bar."""
        if self._rest.strip() and not self._rest.endswith("\r"):
            self.write("\n")


def last_sentence(lines: Sequence[str]) -> str:
    """Return the error message at the end of a program's stderr.

    That is the last line, or after a traceback the first line of the message.
    """
    lines = list(lines)
    for start in range(len(lines) - 1, -1, -1):
        if lines[start].startswith("Traceback (most recent call last)"):
            lines = [line for line in lines[start + 1 :] if not line[0].isspace()][:1]
            break
    return lines[-1].strip().removeprefix("error: ") if lines else ""
