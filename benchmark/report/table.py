"""A table of cells, as text or markdown (LaTeX: `latex`); it knows nothing of runs."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from tabulate import tabulate

from trainers.prompting.errors import printable
from trainers.prompting.record.metrics import wilson

FEW = 1000  # test images; with fewer, an accuracy has an interval
ONE_RUN = (
    "[low, high]: 95% interval (Wilson) for other test images, shown for fewer than 1,000. It does "
    "not say how other trainings would differ."
)
TABLE_STYLES = {"text": "simple", "markdown": "pipe"}  # of tabulate
TABLE_FORMATS = (*TABLE_STYLES, "latex")
WIDTH = 120  # characters in a line of text that is not for a terminal; wider tables are split


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: float | None = None  # as shown; the greatest is the best
    beside: bool = False  # True for the first cell of a line of published numbers or differences
    images: int | None = None  # tested on by the one run that the value is of


@dataclass
class Table:
    """A table with its title, notes and problems.

    Control characters (line breaks, too) in names, which may come from folders and records, are
    escaped.
    """

    title: str
    head: list[str]
    lines: list[list[Cell]]  # the first cell names the line
    caption: list[str]  # sentences below the table
    problems: list[str] = field(default_factory=list)  # sentences on what is missing
    remarks: list[str] = field(default_factory=list)  # sentences after the caption, not in LaTeX
    place: str = ""  # what it is of, where LaTeX joins several
    of_averages: bool = False  # True if the numbers are averages over data sets
    by_line: bool = False  # the cells of a line compete, not those of a column
    picture: str = ""  # the name of the figure below it, if it has one of its own

    def __post_init__(self) -> None:
        """Escape control characters."""
        self.title = printable(self.title)
        self.head = [printable(name) for name in self.head]
        self.lines = [
            [cell._replace(text=printable(cell.text)) for cell in line] for line in self.lines
        ]
        self.caption = [printable(sentence) for sentence in self.caption]
        self.problems = [printable(problem) for problem in self.problems]

    def best(self, column: int) -> set[int]:
        """Return the lines whose number in a column is the best, as shown; empty if all are equal.

        `column` is counted from 0. Published numbers do not compete.
        """
        if self.by_line:
            return {i for i, line in enumerate(self.lines) if column in _best(line)}
        return _best([Cell("") if line[0].beside else line[column] for line in self.lines])

    def all_best(self) -> list[set[int]]:
        """Return `best` of each column."""
        return [self.best(column) for column in range(len(self.head))]

    def texts(self, text: Callable[[Cell], str], bold: str) -> list[list[str]]:
        """Return all cells as texts; `bold` has a gap for the best of each column."""
        best = self.all_best()
        return [
            [bold.format(text(x)) if i in best[j] else text(x) for j, x in enumerate(line)]
            for i, line in enumerate(self.lines)
        ]

    def below(self) -> list[str]:
        """Return the sentences below it, with that on intervals of its cells."""
        few = any(map(interval, chain(*self.lines)))
        return [*self.caption, *self.remarks, *([ONE_RUN] if few else [])]

    def notes(self) -> list[str]:
        """Return the same with a sentence on what is bold, if anything is."""
        bold = f"Bold: the best of its {'line' if self.by_line else 'column'}."
        return [*self.below(), *([bold] if any(self.all_best()) else [])]


def _best(cells: Sequence[Cell]) -> set[int]:
    """Return the places of the cells with the best value; empty if all are equal."""
    values = {i: cell.value for i, cell in enumerate(cells) if cell.value is not None}
    if len(set(values.values())) < 2:
        return set()
    return {i for i, value in values.items() if value == max(values.values())}


def interval(cell: Cell) -> str:
    """Return the interval of the accuracy of one run on few images; empty for other cells."""
    if not cell.images or cell.images >= FEW or cell.value is None:
        return ""
    right = round(cell.images * cell.value / 100)
    low, high = wilson(right / cell.images, cell.images)
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def full(cell: Cell) -> str:
    """Return the text of a cell with its interval, if it has one."""
    return f"{cell.text} {interval(cell)}".rstrip()


def lead(sentences: Sequence[str], form: str) -> str:
    """Return sentences as they stand before the tables, each in a line; a comment in LaTeX."""
    mark, end = {"text": ("", "\n"), "markdown": ("", "\n\n"), "latex": ("% ", "\n")}[form]
    texts = map(_escape, sentences) if form == "markdown" else sentences
    text = "".join(f"{mark}{sentence}{end}" for sentence in texts)
    return f"{text}\n" if text and form != "markdown" else text


def as_text(table: Table) -> str:
    """Return a table for the terminal; a wide one is split into pieces."""
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else WIDTH
    lines = [[full(cell) for cell in line] for line in table.lines]
    first, *others = zip(table.head, *lines, strict=True)
    pieces = [[first]]
    for column in others:
        # tabulate makes a column two wider than its head
        widths = [
            2 + max([2 + len(head), *map(len, rest)]) for head, *rest in (*pieces[-1], column)
        ]
        if sum(widths) - 2 > width:
            pieces.append([first])
        pieces[-1].append(column)
    texts = [_tabulate(list(zip(*piece, strict=True)), "text") for piece in pieces]
    return "\n".join([table.title, "\n\n".join(texts), *table.below(), *_problems(table)])


def as_markdown(table: Table) -> str:
    """Return a table in markdown, with its title and the best of each column in bold."""
    lines = table.texts(lambda cell: _escape(full(cell)), "**{}**")
    head = [_escape(text) for text in table.head]
    parts = [f"**{_escape(table.title)}**", _tabulate([head, *lines], "markdown")]
    parts.append("\n".join(table.notes()))
    if table.problems:
        heading, *problems = map(_escape, _problems(table))
        parts += [heading, "\n".join(problems)]
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    """Return a text in which markdown reads no mark, such as the name of a class."""
    return re.sub(r"[\\`*_<>|]|\](?=\()", r"\\\g<0>", text)


def _tabulate(lines, form: str) -> str:
    align = ["left"] + ["right"] * (len(lines[0]) - 1)
    style = TABLE_STYLES[form]
    return tabulate(lines[1:], lines[0], style, colalign=align, disable_numparse=True)


def _problems(table: Table) -> list[str]:
    return ["Not complete:", *(f"- {what}" for what in table.problems)] if table.problems else []
