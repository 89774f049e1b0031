"""A train.py that a launcher has started: its console.txt shows its state."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ..protocols.base import Run
from ..records import COMMAND, CONSOLE, console_lines
from .start import Process

# What a line of a log says of the state of its run: up to the time left, or that it tests.
STATE = re.compile(r"epoch \[.*?\beta \S+|Evaluate on .*|batch \[\d+/\d+\]")

GRACE = 5.0  # seconds that a child has to end by itself


def write_line(console: Path, line: str) -> None:
    """Append a line to a console.txt, on a line of its own; raises OSError."""
    with open(console, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode(errors="backslashreplace"))


def last_command(run: Run) -> str | None:
    """Return the command line that last wrote to the run's folder, if a launcher started it."""
    commands = [line for line in console_lines(run) if line.startswith(COMMAND)]
    return commands[-1].removeprefix(COMMAND) if commands else None


def latest_lines(run: Run) -> list[str]:
    """Return the lines of the run's console.txt since its last start."""
    lines = console_lines(run)
    begun = max((n for n, line in enumerate(lines) if line.startswith(COMMAND)), default=-1)
    return lines[begun + 1 :]


def state(line: str) -> str:
    """Return the state of a run by a line of its log; empty if the line does not show it."""
    found = STATE.match(line)
    return found[0] if found else ""


def last_state(run: Run) -> str:
    """Return the state of a run by its log."""
    return next(filter(None, map(state, reversed(latest_lines(run)))), "")


class Child:
    """A running train.py, which writes the run's console.txt; `poll` reads what is new there.

    `call` is a function and its arguments; `close` releases the `lock` on the run's folder.
    """

    def __init__(self, run: Run, lock: contextlib.ExitStack, environment: dict[str, str], *call):
        self.run = run
        self.latest = ""
        self._console = run.folder / CONSOLE
        self._read_until = self._console.stat().st_size
        self._lock = lock
        self._process = Process(self._console, environment, *call)
        self.sentinel = self._process.sentinel

    def poll(self) -> bool:
        """Read new output; return True if the process has ended, after killing its workers."""
        ended = self._process.poll() is not None
        if ended:
            self._signal(signal.SIGKILL)  # a stray data loader would keep writing
        self._read()
        return ended

    def failure(self) -> str | None:
        """Return why it failed, in one sentence; None if it succeeded."""
        code = self._process.poll()
        if not code:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        said = last_sentence(latest_lines(self.run)[-200:])
        return said or f"exit code {code} without a message"

    def close(self, note: str | None = None) -> None:
        """Write a last line to console.txt, if any, and release the folder's lock."""
        if note:
            with contextlib.suppress(OSError):  # a full disk
                write_line(self._console, note)
        self._lock.close()

    def interrupt(self) -> None:
        """Ask the process to end."""
        self._signal(signal.SIGTERM)

    def kill(self, grace: float = GRACE) -> None:
        """Wait up to `grace` seconds for the process to end, then kill it."""
        until = time.monotonic() + grace
        while not self.poll():
            if time.monotonic() >= until:
                self._signal(signal.SIGKILL)
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        """Read the lines that the process has completed since the last call."""
        with contextlib.suppress(OSError), open(self._console, "rb") as file:
            file.seek(self._read_until)
            for line in file:
                if line.endswith(b"\n"):
                    self._read_until += len(line)
                    self.latest = state(line.decode(errors="replace")) or self.latest


def last_sentence(lines: Sequence[str]) -> str:
    """Return the error message at the end of what a program prints.

    That is the last line, or after a traceback the first line of the message.
    """
    for start in range(len(lines) - 1, -1, -1):
        if lines[start].startswith("Traceback (most recent call last)"):
            lines = [line for line in lines[start + 1 :] if line[:1].strip()][:1]
            break
    return lines[-1].strip().removeprefix("error: ") if lines else ""
