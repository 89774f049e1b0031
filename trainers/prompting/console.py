"""Breaks lines of prose between words where the terminal ends."""

import os
import re
import sys
import textwrap
from typing import Any, TextIO


def columns(stream: TextIO) -> int:
    """Return how long a line of a stream may be; 0 for files and pipes, which programs read.

    COLUMNS, where it is set, counts in place of the terminal's own width.
    """
    if not stream.isatty():
        return 0
    try:
        width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # of a terminal that says none
        width = 80
    return max(width - 1, 1)


def fold(text: str, width: int) -> str:
    r"""Return a text without lines of prose that are wider than `width`.

    Lines with a layout stay: those that are indented, have two spaces in a row or continue (a
    backslash), and progress bars. Words, such as paths, and commands in backquotes are not divided.

    Args:
        text: the text.
        width: in characters; 0 for any.

    Examples:
        >>> print(fold("Fewer than 16 images of ant\nant    3", 20))
        Fewer than 16 images
          of ant
        ant    3
    """
    return "\n".join(_folded(line, width) for line in text.split("\n"))


def _folded(line: str, width: int) -> str:
    layout = line.startswith((" ", "|")) or line.endswith("\\")
    layout = layout or any(mark in line for mark in ("  ", "\t", "\r", "\x1b"))
    if layout or not 0 < width < len(line):
        return line
    whole = re.sub("`[^`]+`", lambda command: command[0].replace(" ", "\0"), line)
    folded = textwrap.fill(
        whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return folded.replace("\0", " ")


class Folded:
    """A stream whose lines are folded to the width that its terminal has when they are written."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; return the number of its characters."""
        self.stream.write(fold(text, columns(self.stream)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream: isatty, encoding, flush, ..."""
        return getattr(self.stream, name)


def fold_lines(*names: str) -> None:
    """Fold what this process writes to streams, `stdout` or `stderr`."""
    for name in names:
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Folded):
            setattr(sys, name, Folded(stream))
