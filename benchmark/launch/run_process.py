"""A train.py that a launcher has started: its output is read and kept, and gives the time left."""

import codecs
import contextlib
import os
import re
import signal
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import TextIO

from ..protocols.base import Run
from ..records import COMMAND, CONSOLE, console_lines
from .start import Process
from .time_left import Advance, Pace

LOSS = re.compile(r"\bloss (-?\d\S*|nan|-?inf)(?: \((\S+)\))?")  # the average is in brackets
ACCURACY = re.compile(r"\bacc (\d+\.?\d*)(?: \((\d+\.?\d*)\))?")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\]")
BATCH = re.compile(r"batch \[(\d+)/(\d+)\]")
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TESTING = re.compile(r"Evaluate on|batch \[\d+/\d+\]")  # without an epoch
END = re.compile(r"(\r\n|\n|\r(?!\Z))")  # not a \r at the very end: its \n may still come

GRACE = 5.0  # seconds that a child has to end by itself


def open_console(run: Run) -> TextIO:
    """Open the run's console.txt for appending."""
    return open(run.folder / CONSOLE, "a", encoding="utf-8", buffering=1)


def last_command(run: Run) -> str | None:
    """Return the command line that last wrote to the run's folder, if a launcher started it."""
    commands = [line for line in console_lines(run) if line.startswith(COMMAND)]
    return commands[-1].removeprefix(COMMAND) if commands else None


class Child:
    """A running train.py; its output is read whenever `ended` is called.

    `close` closes the run's open `console` (console.txt), and releases the lock on its folder.
    """

    def __init__(self, run: Run, process: Process, console: TextIO, lock: contextlib.ExitStack):
        self.run = run
        self.latest = ""
        self.pace = Pace()
        self.started = time.monotonic()
        self._console = console
        self._lock = lock
        self._process = process
        self._errors: deque[str] = deque(maxlen=200)
        self._pipes = [_Pipe(process.out), _Pipe(process.errors)]

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

    def failure(self) -> str | None:
        """Return why it failed, in one sentence; None if it succeeded."""
        code = self._process.poll()
        if not code:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return last_sentence(self._errors) or f"exit code {code} without a message"

    def close(self, note: str | None = None) -> None:
        """Write a last line to console.txt, if any, and release the folder's lock."""
        self._read()
        with contextlib.suppress(OSError):  # a full disk
            if note:
                self._console.write(f"{note}\n")
        with contextlib.suppress(OSError):
            self._console.close()
        for pipe in self._pipes:
            pipe.close()
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
        """Read what the process has written since the last call."""
        out, errors = self._pipes
        for pipe in (out, errors):
            for text, end in pipe.lines():
                self._hear(text, end, pipe is errors)

    def _hear(self, line: str, end: str, is_error: bool) -> None:
        text = ESCAPES.sub("", line).rstrip()
        self.latest = state(text) or self.latest
        self.pace.see(self.seconds, fraction_done(text))
        # A line that ends with a bare carriage return is part of a progress bar: it is the latest
        # news, but not kept, as on a terminal.
        if end == "\r":
            return
        if is_error and text:
            self._errors.append(text)
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the run
            self._console.write(f"{text}\n")


class _Pipe:
    """The read end of a pipe, read without blocking, line by line."""

    def __init__(self, end: Connection):
        self._end = end
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        os.set_blocking(end.fileno(), False)

    def lines(self) -> list[tuple[str, str]]:
        """Return the lines that are complete by now, each with the characters that end it."""
        try:
            while piece := os.read(self._end.fileno(), 1 << 16):
                self._rest += self._decode(piece)
            if self._rest and not self._rest.endswith("\r"):
                self._rest += "\n"  # the last line may lack a line break
        except BlockingIOError:
            pass
        *complete, self._rest = END.split(self._rest)
        return list(zip(complete[::2], complete[1::2], strict=True))

    def close(self) -> None:
        """Close the pipe."""
        self._end.close()


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


def last_sentence(lines) -> str:
    """Return the error message at the end of a program's stderr.

    That is the last line, or after a traceback the first line of the message.
    """
    lines = list(lines)
    for start in range(len(lines) - 1, -1, -1):
        if lines[start].startswith("Traceback (most recent call last)"):
            lines = [line for line in lines[start + 1 :] if not line[0].isspace()][:1]
            break
    return lines[-1].strip().removeprefix("error: ") if lines else ""
