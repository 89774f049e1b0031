"""Parts that the commands share: a parser, argument types, and input and output files."""

import argparse
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import printable
from ...storage.files import is_visible, write_whole


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, without the usage."""

    def error(self, message: str):
        """Print the message on one line and leave with code 2."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def command_parser(
    prog: str, version: str, groups: Mapping[str, Mapping[str, str]], note: str = ""
) -> Parser:
    """Return a parser for the name of a command; --help lists all by groups, above a note."""
    width = max(len(name) for summaries in groups.values() for name in summaries) + 2
    most = shutil.get_terminal_size().columns - 2  # as argparse
    listed = []
    for title, summaries in groups.items():
        listed += ["", f"{title}:"] * bool(title)
        listed += [
            textwrap.fill(summary, most, initial_indent=f"  {name:{width}}",
                          subsequent_indent=" " * (width + 2))
            for name, summary in summaries.items()
        ]  # fmt: skip
    parser = Parser(
        prog=prog,
        usage="%(prog)s COMMAND ...   (see COMMAND --help)",
        epilog="\n".join([*listed, "", note]).rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    return parser


def add_plugin(parser: argparse._ActionsContainer) -> None:
    """Add the option for plug-ins."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="NAME",
        help="a Python module or a .py file with methods or data sets; may be repeated",
    )  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options for the device, and for the images that it takes at a time."""
    add = parser.add_argument
    add("--batch-size", type=from_one, default=32, help="(default: %(default)s)")
    add("--device", metavar="NAME",
        help="cpu, cuda, cuda:1 or mps (default: cuda if it can be used, else cpu)")  # fmt: skip


def from_one(text: str, least: int = 1) -> int:
    """Return a whole number that is at least 1 (or `least`)."""
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, {least} or more")
    return int(text)


def files_below(folder: str | os.PathLike[str], shut: Callable[[str], object]) -> list[Path]:
    """Return the visible files in a folder and its subfolders, also linked ones, sorted.

    `shut` is called with a sentence about each folder that cannot be read.
    """

    def report(error: OSError) -> None:
        shut(printable(f"'{error.filename}' cannot be read ({error.strerror})"))

    found: list[Path] = []
    for path, folders, names in os.walk(folder, onerror=report, followlinks=True):
        folders[:] = filter(is_visible, folders)
        found += [Path(path, name) for name in filter(is_visible, names)]
    return sorted(found)


def write_output(path: Path, content: str | bytes) -> None:
    """Write an output file, and make the folders above it; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
