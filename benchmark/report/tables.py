"""Build tables from rows: one for every data set, and one for the averages over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trainers.prompting.errors import printable

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol, shots_text
from . import published
from .frame import apart_note, each_row
from .names import dataset_title, method_name, rank

if TYPE_CHECKING:
    import pandas as pd

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
ONE_SEED = "One seed."
EACH_H = "H = 2 Base New / (Base + New), computed for each seed and then averaged."
AVERAGE = "Means over the data sets."
AVERAGE_H = "Means over the data sets; H is that of the averages, as in the papers."
TARGET_AVERAGE = "The average is over the targets."

# In a paper: marks after the name of a method with published numbers, and after a mean that lacks
# seeds or data sets.
PUBLISHED, INCOMPLETE = r"$^\dagger$", r"$^*$"
NOTHING_IN_A_PAPER = "--"
MISPRINT = "(misprint)"


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: float | None = None  # competes for the best of its column; higher is better
    beside: bool = False  # True for the first cell of a line of published numbers or differences
    spread: float | None = None  # shown after the text in a paper


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
    first: Any = None  # one of the rows shown
    seeds: int = 0  # the largest number of seeds that a mean is over
    cited: set[str] = field(default_factory=set)  # methods with published numbers in the table
    marks: set[str] = field(default_factory=set)  # marks of the other lines

    def __post_init__(self) -> None:
        """Escape control characters."""
        self.title = printable(self.title)
        self.head = [printable(name) for name in self.head]
        self.lines = [
            [cell._replace(text=printable(cell.text)) for cell in of] for of in self.lines
        ]
        self.problems = [printable(problem) for problem in self.problems]

    @property
    def of_averages(self) -> bool:
        """True if the numbers are averages over data sets."""
        return self.first is not None and self.first.average

    def best(self, column: int, place: int = 0) -> set[int]:
        """Return the lines with the best number of a column, as shown; empty if all are equal.

        Args:
            column: counted from 0.
            place: 1 for the second best, and so on.
        """
        values = {
            i: round(value, 2)
            for i, line in enumerate(self.lines)
            if (value := line[column].value) is not None
        }
        ranked = sorted(set(values.values()), reverse=True)
        if len(ranked) < max(2, place + 1):
            return set()
        return {i for i, value in values.items() if value == ranked[place]}


def tables(
    rows: pd.DataFrame, all_published: bool = False, paper: bool = False
) -> dict[Protocol, list[Table]]:
    """Return the tables of each protocol that has rows: every data set, then the averages.

    Args:
        rows: a data frame as `rows.rows` makes it.
        all_published: also show published numbers of methods that were not run.
        paper: make tables for a paper: spreads are separate from means, differences and costs are
            left out, and published numbers compete for the best.
    """
    found = defaultdict(list)
    for _, members in rows.groupby("table", sort=False):
        found[protocol_of(members)].append(_table(members, all_published, paper))
    return dict(found)


def protocol_of(rows: Any) -> Protocol:
    """Return the protocol of a row, or of rows that have the same."""
    name = rows.protocol
    return PROTOCOLS[name if isinstance(name, str) else name.iloc[0]]


def _table(members: pd.DataFrame, all_published: bool, paper: bool) -> Table:
    """Return a table with a line for each method, or for each setting of an ablation.

    Its columns are those of the protocol, data sets, or numbers of shots: see `Protocol.across`.
    """
    protocol = protocol_of(members)
    shown = sorted(each_row(members), key=lambda row: (row.average, row.shots))
    first = shown[0]
    if protocol.across == "columns":  # in the order of the protocol
        shown.sort(key=lambda row: list(protocol.columns).index(row.column))
    places: dict[str, Any] = {}
    for row in shown:
        places.setdefault(place_name(row), row)
    head = [first_head(protocol), *places, *([] if paper else more(first))]
    found: list[list[Cell | None]] = []  # None: an empty cell
    cited = set()
    of_line = "line" if protocol.across == "columns" else "name"
    for _, line in members.sort_values("rank", kind="stable").groupby(of_line, sort=False):
        here = {place_name(row): row for row in each_row(line)}
        row = next(iter(here.values()))
        of_method = _of_method(row, [here.get(place) for place in places], paper)
        found += of_method
        if len(of_method) > 1:
            cited.add(row.trainer)
    if all_published and members["comparable"].any():
        for trainer, theirs in not_run(members, places.values(), paper).items():
            cited.add(trainer)
            found.append([_published_name(trainer, trainer, protocol, paper), *theirs])
    nothing = Cell(NOTHING_IN_A_PAPER if paper else "-")
    lines = [
        [cell or nothing for cell in line] + [Cell("")] * (len(head) - len(line)) for line in found
    ]
    marks = set(members["beyond"].explode().dropna())
    caption = _caption(members) + published.caption(protocol, cited, marks)
    if any(cell.text.endswith(MISPRINT) for line in lines for cell in line):
        caption.append(published.MISPRINT)
    ran = set(members["trainer"][members["comparable"].astype(bool)])
    if "ALIGN" in ran and "ALIGN" not in published.trainers(protocol):
        caption.append(published.NO_ALIGN)
    seeds = 0 if first.average else max(row.count for row in shown if not row.average)
    return Table(
        _title(members), head, lines, caption, _problems(members), first, seeds, cited, marks
    )


def _of_method(first, rows: list, paper: bool) -> list[list[Cell | None]]:
    """Return the line of a method; with published numbers, also theirs and the difference."""
    name = method_name(first.name) if paper else first.name
    behind = [] if paper else [Cell(text) for text in more(first).values()]
    own = published.marked(name, first.beyond)
    lines = [[Cell(own), *(_ours(row, paper) for row in rows), *behind]]
    if any(row is not None and known(row.published) is not None for row in rows):
        theirs = [row and _theirs(known(row.published), row.misprint, paper) for row in rows]
        protocol = protocol_of(first)
        lines.append([_published_name(name, first.trainer, protocol, paper), *theirs])
        if not paper:
            differences = [row and _difference(known(row.difference)) for row in rows]
            lines.append([Cell(f"{name}, difference", beside=True), *differences])
    return lines


def known(number: Any) -> Any:
    """Return a number of a data frame; None if it is missing there."""
    return None if number is None or number != number else number


def place_name(row) -> str:
    """Return the head of a row's column in a table."""
    protocol = protocol_of(row)
    if protocol.across == "columns":
        return protocol.columns[row.column]
    if protocol.across == "shots":
        return shots_text(row.shots)
    return "Average" if row.average else dataset_title(row.dataset)


def _ours(row, paper: bool) -> Cell | None:
    if row is None or (paper and known(row.mean) is None):
        return None
    if known(row.mean) is None:
        return Cell(row.cell)
    value = row.mean if row.complete else None
    if not paper:
        return Cell(row.cell, value)
    return Cell(
        f"{row.mean:.2f}" + INCOMPLETE * (not row.complete), value, spread=known(row.spread)
    )


def _published_name(name: str, trainer: str, protocol: Protocol, paper: bool) -> Cell:
    text = method_name(trainer) + PUBLISHED if paper else f"{name}, published"
    return Cell(published.marked(text, published.kinds(protocol, trainer)), beside=True)


def _theirs(number: float | None, misprint: bool, paper: bool) -> Cell | None:
    """Return the cell of a published number; in a paper it competes, unless it is a misprint."""
    if number is None:
        return None
    if misprint:
        return Cell(f"{number:.2f} {MISPRINT}")
    return Cell(f"{number:.2f}", number if paper else None)


def _difference(number: float | None) -> Cell | None:
    # + 0.0 turns -0.00 into 0.00
    return None if number is None else Cell(f"{round(number, 2) + 0.0:+.2f}")


def more(row) -> dict[str, str]:
    """Return the columns after the numbers: the data sets of an average, or costs of training."""
    if row.average:
        of = {"Data sets": f"{row.count} of {row.of}"}
        return of if protocol_of(row).across == "columns" else {}
    if not protocol_of(row).costs:
        return {}
    seconds, params = known(row.train_seconds), known(row.num_params)
    return {
        "Trained parameters": "-" if params is None else f"{params:,.0f}",
        "Training": "-" if seconds is None else f"{seconds:,.0f} s",
        "Peak memory": memory(known(row.peak_memory_mib)),
    }


def not_run(members: pd.DataFrame, places: Iterable, paper: bool) -> dict[str, list[Cell | None]]:
    """Return the published numbers of methods that were not run, by trainer.

    `members` are the rows of a table, and `places` one from each of its columns, of any method.
    """
    protocol = protocol_of(members)
    found = {}
    for trainer in sorted(set(published.trainers(protocol)) - set(members["trainer"]), key=rank):
        cells = []
        for row in places:
            theirs = published.find(protocol, trainer, row.dataset, row.shots)
            shown = theirs if row.comparable and theirs and row.column in theirs.values else None
            cells.append(shown and _theirs(shown.values[row.column], shown.misprint, paper))
        if any(cells):
            found[trainer] = cells
    return found


def _title(members: pd.DataFrame) -> str:
    first = members.iloc[0]
    protocol = protocol_of(members)
    if first["average"]:
        details = [f"{protocol.title}, {average_name(first)}: accuracy (%)"]
    else:
        split = " and ".join(sorted(set(" and ".join(members["split"]).split(" and "))))
        details = [f"{table_name(first)}: accuracy (%) on {split} images"]
    if protocol.across != "shots" and first["shots"]:
        details.append(shots_text(first["shots"]))
    if not first["average"]:
        details.append(seeds_text(first["seeds"]))
    return ", ".join(details)


def table_name(row) -> str:
    """Return the name of a table by its protocol and data set, as `Few-shot on DTD`."""
    return protocol_of(row).table_title.format(
        dataset=dataset_title(row.dataset), source=dataset_title(row.source), tried=row.tried
    )


def average_name(row) -> str:
    """Describe an average in words: `average over 11 data sets`."""
    return f"average over {row.of} {'embedded ' if row.embedded else ''}data sets"


def _caption(members: pd.DataFrame) -> list[str]:
    """Return the sentences below a table."""
    first = members.iloc[0]
    protocol = protocol_of(members)
    if first["average"]:
        return [
            AVERAGE_H if "h" in protocol.columns else AVERAGE,
            *apart_note(each_row(members)),
        ]
    seeds = max(members["count"][~members["average"]])
    sentences = [spread_note(seeds, first["interval"])]
    if "h" in protocol.columns:
        sentences.append(EACH_H)
    if first["tried"] in protocol.variant_notes:
        sentences.append(protocol.variant_notes[first["tried"]])
    if members["average"].any():
        sentences += [TARGET_AVERAGE, *apart_note(each_row(members[members["average"]]))]
    if labels := ", ".join(filter(None, members["label"].unique())):
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def _problems(members: pd.DataFrame) -> list[str]:
    if members["average"].all():
        return [problem for problems in members["problems"] for problem in problems]
    found = []
    for row in each_row(members[~members["average"]]):
        place = row.column if protocol_of(row).across == "columns" else place_name(row)
        found += [f"{row.name}, {place}: {problem}" for problem in row.problems]
    return found


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds in words, as `seeds 1 2 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"


def first_head(protocol: Protocol) -> str:
    """Return the head of the first column of a protocol's tables."""
    return "Variant" if protocol.by_variant else "Method"


def spread_note(seeds: int, interval: bool = False) -> str:
    """Return the sentence that explains the cells of a table, given its largest number of seeds."""
    return ONE_SEED if seeds < 2 else INTERVAL if interval else STD


def memory(mebibytes: float | None) -> str:
    """Format an amount of memory (MiB) for a reader."""
    if mebibytes is None:
        return "-"
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
