"""One child process: its output read line by line, kept, and understood a little."""

import contextlib
import io
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from typing import TextIO

from ..protocols.base import Run
from ..report.results import COMMAND, CONSOLE, console_lines

EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\]")
BATCH = re.compile(r"batch \[(\d+)/(\d+)\]")
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
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
    """A running train.py.

    Args:
        run: what it does.
        command: the words of the command line.
        environment: variables of its own, on top of ours.
        console: the run's console.txt, open; closed when the child has ended.
        lock: what keeps others out of the folder; given back when the child has ended.
    """

    def __init__(
        self,
        run: Run,
        command: list[str],
        environment: dict,
        console: TextIO,
        lock: contextlib.ExitStack,
    ):
        self.run = run
        self.latest = ""
        self.fraction: float | None = None  # the part of the training that is done, once known
        self.started = time.monotonic()
        self._console = console
        self._lock = lock
        self._writing = threading.Lock()
        self._errors: deque[str] = deque(maxlen=200)
        # A session of its own: Ctrl-C reaches us alone, and we end the child with its workers.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, errors), daemon=True)
            for pipe, errors in ((self._process.stdout, False), (self._process.stderr, True))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def ended(self) -> bool:
        """Whether it has ended; if so, nothing of it is left running."""
        if self._process.poll() is None:
            return False
        self._signal(signal.SIGKILL)  # a stray worker would hold the pipes open
        for reader in self._readers:
            reader.join(timeout=GRACE)
        return True

    def failure(self) -> str | None:
        """Why it failed, in one sentence; None if it ended well."""
        code = self._process.returncode
        if code == 0:
            return None
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return last_sentence(self._errors) or f"exit code {code} without a message"

    def close(self, note: str | None = None) -> None:
        """Add a last line to console.txt, and give the folder's lock back."""
        with self._writing:
            with contextlib.suppress(OSError):  # a full disk
                if note:
                    self._console.write(f"{note}\n")
            with contextlib.suppress(OSError):
                self._console.close()
        self._lock.close()

    def interrupt(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self, grace: float = GRACE) -> None:
        """Wait a little, then end it by force."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self, pipe: io.BufferedReader, errors: bool) -> None:
        # newline="": a progress bar ends its lines with a bare carriage return; such a line is
        # the latest news but, as on a terminal, does not stay.
        for line in io.TextIOWrapper(pipe, encoding="utf-8", errors="replace", newline=""):
            text = ESCAPES.sub("", line).rstrip()
            if text.strip() and not text.startswith(SAYS_NOTHING):
                self.latest = " ".join(text.split())
                self.fraction = fraction_done(text) or self.fraction
            if line.endswith("\r"):
                continue
            if errors and text:
                self._errors.append(text)
            # A full disk must not stop the reading: the child would wait for us for ever.
            with self._writing, contextlib.suppress(OSError, ValueError):
                self._console.write(f"{text}\n")


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
