"""A train.py that a launcher has started: its console.txt shows its state and the time left."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from ..protocols.base import Run
from ..records import COMMAND, CONSOLE, console_lines
from .start import INTERRUPTS, Process
from .time_left import Advance, Pace

LOSS = re.compile(r"\bloss (-?\d\S*|nan|-?inf)(?: \((\S+)\))?")  # the average is in brackets
ACCURACY = re.compile(r"\bacc (\d+\.?\d*)(?: \((\d+\.?\d*)\))?")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\]")
BATCH = re.compile(r"batch \[(\d+)/(\d+)\]")
TESTING = re.compile(r"Evaluate on|batch \[\d+/\d+\]")  # without an epoch

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


class Child:
    """A running train.py, which writes the run's console.txt; `poll` reads what is new there.

    `call` is a function and its arguments; `close` releases the `lock` on the run's folder.
    """

    def __init__(self, run: Run, lock: contextlib.ExitStack, environment: dict[str, str], *call):
        self.run = run
        self.latest = ""
        self.pace = Pace()
        self.started = time.monotonic()
        self._console = run.folder / CONSOLE
        self._read_until = self._console.stat().st_size
        self._lock = lock
        self._process = Process(self._console, environment, *call)
        self.sentinel = self._process.sentinel

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def advance(self) -> Advance:
        """The advance of its training."""
        return self.pace.at(self.seconds)

    def poll(self) -> bool:
        """Read new output; return True if the process has ended, after killing its workers."""
        ended = self._process.poll() is not None
        if ended:
            self._signal(signal.SIGKILL)  # a stray data loader would keep writing
        self._read()
        return ended

    def is_interrupted(self) -> bool:
        """Return True if it has ended by a signal that would interrupt a launcher."""
        return -(self._process.poll() or 0) in INTERRUPTS

    def failure(self) -> str | None:
        """Return why it failed, in one sentence; None if it succeeded."""
        code = self._process.poll()
        if not code:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return self._process.last_error() or f"exit code {code} without a message"

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
                    text = line.decode(errors="replace")
                    self.latest = state(text) or self.latest
                    self.pace.see(self.seconds, fraction_done(text))


def state(line: str) -> str:
    """Return the state of a run by a line of its log; empty if the line does not show it.

    That is its loss and accuracy, averages if there are any, with the epoch, or `testing`.
    """
    epoch, loss, accuracy = EPOCH.search(line), LOSS.search(line), ACCURACY.search(line)
    if not epoch:
        return "testing" * bool(TESTING.match(line))
    words = [f"loss {loss[2] or loss[1]}"] if loss else []
    words += [f"acc {float(accuracy[2] or accuracy[1]):.1f}%"] if accuracy else []
    return ", ".join([*words, f"epoch {epoch[1]}/{epoch[2]}"])


def fraction_done(line: str) -> float | None:
    """Return the fraction of a training that is done, from a line of its log; None if not in it."""
    epoch, batch = EPOCH.search(line), BATCH.search(line)
    if not epoch or not int(epoch[2]):
        return None
    within = int(batch[1]) / int(batch[2]) if batch and int(batch[2]) else 0.0
    return (int(epoch[1]) - 1 + within) / int(epoch[2])


def last_epoch(run: Run) -> tuple[str, float | None]:
    """Return the state of a run by its log, and the fraction of training done, if known."""
    lines = console_lines(run)
    begun = max((n for n, line in enumerate(lines) if line.startswith(COMMAND)), default=0)
    latest = next(filter(None, map(state, reversed(lines[begun:]))), "")
    fractions = map(fraction_done, reversed(lines[begun:]))
    return latest, next((part for part in fractions if part is not None), None)
