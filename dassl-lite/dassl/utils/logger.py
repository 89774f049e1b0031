"""A log file of everything that a run prints, and a progress bar that stays out of it."""

import contextlib
import os.path as osp
import sys
import time

from tqdm import tqdm

from .tools import mkdir_if_missing


class Logger:
    """A stream that writes to the console and to a log file shared with other streams."""

    def __init__(self, console, file, errors_only=False):
        """Keep the streams; with `errors_only` (stderr), a full disk is reported, not raised."""
        self.console = console
        self.file = file
        self.errors_only = errors_only

    def write(self, text):
        """Write to both; return the console's result."""
        written = self.console.write(text)
        self._to_file(lambda: self.file.write(text))
        return written

    def flush(self):
        """Flush both."""
        self.console.flush()
        self._to_file(self.file.flush)

    def _to_file(self, action):
        if self.file.closed:
            return
        try:
            action()
        except OSError:  # a full disk: the error message about it must not fail again
            with contextlib.suppress(OSError):
                self.file.close()
            if not self.errors_only:
                raise

    def __getattr__(self, name):
        """Return an attribute of the console: isatty, encoding, fileno, ..."""
        return getattr(self.console, name)


def setup_logger(output=None):
    """Copy stdout and stderr to `output` (a .txt or .log file) or to `output`/log.txt.

    An older log is kept: the time is then appended to the new one's name.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else osp.join(output, "log.txt")
    mkdir_if_missing(osp.dirname(fpath) or ".")
    if osp.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    # It stays open until the end. Names of class folders may not be valid UTF-8.
    file = open(fpath, "a", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    # A second run in the same process starts another log.
    sys.stdout = Logger(getattr(sys.stdout, "console", sys.stdout), file)
    sys.stderr = Logger(getattr(sys.stderr, "console", sys.stderr), file, errors_only=True)


def progress(iterable, seconds=4.0):
    """Iterate with a bar on a terminal, else with a plain line every few seconds."""
    console = getattr(sys.stderr, "console", sys.stderr)  # bypasses the log file: no `\r` in it
    if console.isatty():
        yield from tqdm(iterable, file=console, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        if time.monotonic() - last > seconds:
            print(f"batch [{done}/{len(iterable)}]", flush=True)
            last = time.monotonic()
