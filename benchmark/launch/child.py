"""One child process: its output read line by line, kept, and understood a little."""

import codecs
import contextlib
import os
import re
import signal
import time
from collections import deque
from typing import TextIO

from ..protocols.base import Run
from ..report.results import COMMAND, CONSOLE, console_lines
from .start import Process

LOSS = re.compile(r"\bloss (\S+)(?: \((\S+)\))?")  # the average stands in brackets
ACCURACY = re.compile(r"\bacc (\S+)(?: \((\S+)\))?")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\]")
BATCH = re.compile(r"batch \[(\d+)/(\d+)\]")
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
END = re.compile(r"(\r\n|\n|\r(?!\Z))")  # what a last \r is, the next byte says
SAYS_NOTHING = ("Checkpoint saved to ", "Initialize tensorboard")  # lines that hold a long path

GRACE = 5.0  # seconds that a child is given to end by itself


def open_console(run: Run) -> TextIO:
    """The run's console.txt, open to add lines to it."""
    return open(run.folder / CONSOLE, "a", encoding="utf-8", buffering=1)


def last_command(run: Run) -> str | None:
    """The command line that last wrote in the run's folder, if an engine started it."""
    commands = [line for line in console_lines(run) if line.startswith(COMMAND)]
    return commands[-1].removeprefix(COMMAND) if commands else None


class Child:
    """A running train.py, whose output is read whenever it is asked whether it has ended.

    Args:
        run: what it does.
        process: that does it.
        console: the run's console.txt, open; closed when the child has ended.
        lock: what keeps others out of the folder; given back when the child has ended.
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
        """How long it has been running."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float | None:
        """Seconds of training that are left, once they can be estimated."""
        return self.pace.left(self.seconds)

    def ended(self) -> bool:
        """Whether it has ended; if so, nothing of it is left running."""
        ended = self._process.poll() is not None
        if ended:
            self._signal(signal.SIGKILL)  # a stray worker would keep writing
        self._read()
        return ended

    def failure(self) -> str | None:
        """Why it failed, in one sentence; None if it ended well."""
        code = self._process.poll()
        if not code:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return last_sentence(self._errors) or f"exit code {code} without a message"

    def close(self, note: str | None = None) -> None:
        """Add a last line to console.txt, and give the folder's lock back."""
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
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self, grace: float = GRACE) -> None:
        """Wait a little, then end it by force."""
        until = time.monotonic() + grace
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        while not self.ended():
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        """Take what the process has written since."""
        out, errors = self._pipes
        for pipe in (out, errors):
            for text, end in pipe.lines():
                self._hear(text, end, pipe is errors)

    def _hear(self, line: str, end: str, is_error: bool) -> None:
        text = ESCAPES.sub("", line).rstrip()
        if text.strip() and not text.startswith(SAYS_NOTHING):
            self.latest = " ".join(text.split())
            self.pace.see(self.seconds, fraction_done(text))
        # A progress bar ends its lines with a bare carriage return; such a line is the latest
        # news but, as on a terminal, does not stay.
        if end == "\r":
            return
        if is_error and text:
            self._errors.append(text)
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the run
            self._console.write(f"{text}\n")


class _Pipe:
    """The output end of a pipe, read in lines."""

    def __init__(self, end: int):
        self._end = end
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        os.set_blocking(end, False)

    def lines(self) -> list[tuple[str, str]]:
        """The lines that are complete by now, each with the characters that end it."""
        try:
            while piece := os.read(self._end, 1 << 16):
                self._rest += self._decode(piece)
            if self._rest and not self._rest.endswith("\r"):
                self._rest += "\n"  # it was the last line
        except BlockingIOError:
            pass
        *complete, self._rest = END.split(self._rest)
        return list(zip(complete[::2], complete[1::2], strict=True))

    def close(self) -> None:
        """Read no more."""
        os.close(self._end)


class Pace:
    """The speed of a training since its first news: its start and earlier epochs do not count."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # seconds, and the part done by then
        self._last: tuple[float, float] | None = None

    def see(self, seconds: float, fraction: float | None) -> None:
        """Note the part of the training that is done after so many seconds, if that is known."""
        if fraction is not None and (self._last is None or fraction > self._last[1]):
            self._first = self._first or (seconds, fraction)
            self._last = (seconds, fraction)

    def left(self, seconds: float) -> float | None:
        """Seconds until its end, counted from `seconds`; None before the second news."""
        if self._first is None or self._last is None or self._first == self._last:
            return None
        (start, before), (then, done) = self._first, self._last
        return max(0.0, then + (then - start) / (done - before) * (1 - done) - seconds)


def numbers(line: str) -> list[str]:
    """Loss and accuracy in a line of a training's log, if it has them: averages where it does."""
    found = ((name, form.search(line)) for name, form in (("loss", LOSS), ("acc", ACCURACY)))
    return [f"{name} {match[2] or match[1]}" for name, match in found if match]


def fraction_done(line: str) -> float | None:
    """The part of a training that is done, by a line of its log; None when that tells none."""
    epoch, batch = EPOCH.search(line), BATCH.search(line)
    if not epoch or not int(epoch[2]):
        return None
    within = int(batch[1]) / int(batch[2]) if batch and int(batch[2]) else 0.0
    return (int(epoch[1]) - 1 + within) / int(epoch[2])


def last_epoch(run: Run) -> tuple[str, float | None]:
    """The latest line of the run's log, and the part of its training that is done, if told."""
    lines = console_lines(run)
    begun = max((n for n, line in enumerate(lines) if line.startswith(COMMAND)), default=0)
    lines = [line.strip() for line in lines[begun:] if line.strip()]
    fractions = (fraction_done(line) for line in reversed(lines))
    return (lines or [""])[-1], next((part for part in fractions if part is not None), None)


def last_sentence(lines) -> str:
    """The error message that a program's stderr ends with.

    That is its last line; or, where the message after a traceback has several, its first.
    """
    lines = list(lines)
    for start in range(len(lines) - 1, -1, -1):
        if lines[start].startswith("Traceback (most recent call last)"):
            lines = [line for line in lines[start + 1 :] if not line[0].isspace()][:1]
            break
    return lines[-1].strip().removeprefix("error: ") if lines else ""
