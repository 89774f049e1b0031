"""Tables, and how they are made of rows: of every data set, and of the averages over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trainers.prompting.errors import printable

from ..protocols.base import Protocol, shots_text
from . import published
from .methods import rank
from .names import dataset_title, method_name

if TYPE_CHECKING:
    import pandas as pd

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
ONE_SEED = "One seed."
EACH_H = "H = 2 Base New / (Base + New), computed for each seed and then averaged."
AVERAGE = "Means over the data sets."
AVERAGE_H = "Means over the data sets; H is that of the averages, as in the papers."
TARGET_AVERAGE = "The average is over the targets."

# In a paper: behind the name of a method whose numbers are not ours, and behind a mean that lacks
# seeds or data sets.
PUBLISHED, INCOMPLETE = r"$^\dagger$", r"$^*$"


class Cell(NamedTuple):
    """A cell of a table; those with a `value` compete for the best of their column.

    The first of a line is `beside` where the line is not ours: of published numbers, or what ours
    differ from them by. `paper` is the cell where the table goes into a paper, if it does.
    """

    text: str
    value: float | None = None
    beside: bool = False
    paper: Cell | None = None


@dataclass
class Table:
    """A title, a head, lines of cells (the first names the line), what to know, what is missing.

    Names in them may come from folders and records: none can leave its line. `first` is a row that
    stands in the table, `seeds` the most that a number is over, and `cited` are the methods with
    published numbers in it.
    """

    title: str
    head: list[str]
    lines: list[list[Cell]]
    caption: list[str]
    problems: list[str] = field(default_factory=list)
    first: Any = None
    seeds: int = 0
    cited: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Write out what could leave a line."""
        self.title = printable(self.title)
        self.head = [printable(name) for name in self.head]
        self.lines = [
            [cell._replace(text=printable(cell.text)) for cell in line] for line in self.lines
        ]
        self.problems = [printable(problem) for problem in self.problems]

    @property
    def of_averages(self) -> bool:
        """Whether its numbers are averages over data sets."""
        return self.first is not None and self.first.average

    def best(self, column: int, place: int = 0) -> set[int]:
        """The lines with the best number of a column, as far as it shows; none if all are equal.

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


def tables(rows: pd.DataFrame, all_published: bool = False) -> dict[Protocol, list[Table]]:
    """The tables of each protocol that has rows: of every data set, then of the averages.

    Args:
        rows: as `rows` makes them.
        all_published: the published numbers of methods that were not run are shown, too.
    """
    found = defaultdict(list)
    for _, members in rows.groupby("table", sort=False):
        found[members.iloc[0]["protocol"]].append(_table(members, all_published))
    return dict(found)


def _table(members: pd.DataFrame, all_published: bool) -> Table:
    """A line for each method, or setting of an ablation; beside each other columns, or data sets.

    Which, `across` of the protocol says: also numbers of shots may stand beside each other.
    """
    shown = sorted(members.itertuples(), key=lambda row: (row.average, row.shots))
    protocol, first = shown[0].protocol, shown[0]
    if protocol.across == "columns":  # each has all columns, in their order
        shown.sort(key=lambda row: list(protocol.columns).index(row.column))
    places = {place_name(row): row for row in reversed(shown)}
    places = {name: places[name] for name in dict.fromkeys(map(place_name, shown))}
    head = [first_head(protocol), *places]
    if first.average and protocol.across == "columns":
        head.append("Data sets")
    if protocol.costs and not first.average:
        head += ["Trained parameters", "Training", "Peak memory"]
    lines, cited = [], set()
    by_rank = members.loc[sorted(members.index, key=members["rank"].__getitem__)]
    of_line = "line" if protocol.across == "columns" else "method"
    for _, line in by_rank.groupby(of_line, sort=False):
        here = {place_name(row): row for row in line.itertuples()}
        row = next(iter(here.values()))
        more = _more(row)
        name = row.line_name
        of = [here.get(place) for place in places]
        lines.append([Cell(name, paper=Cell(method_name(row.method))), *map(_ours, of), *more])
        if any(row is not None and row.published is not None for row in of):
            cited.add(row.trainer)
            theirs = [_theirs(row and row.published, row and row.misprint) for row in of]
            lines.append([*_published_name(name, row.trainer), *theirs, *[Cell("")] * len(more)])
            differences = [_difference(row and row.difference) for row in of]
            name_cell = Cell(f"{name}, difference", beside=True)
            lines.append([name_cell, *differences, *[Cell("")] * len(more)])
    if all_published and members["comparable"].any():
        for trainer, numbers in not_run(members, places.values()).items():
            cited.add(trainer)
            cells = [*_published_name(trainer, trainer), *map(_theirs, numbers)]
            lines.append([*cells, *[Cell("")] * (len(head) - len(cells))])
    caption = _caption(members) + published.caption(protocol, cited)
    if members["misprint"].any():
        caption.append(published.MISPRINT)
    ran = set(members["trainer"][members["comparable"].astype(bool)])
    if "ALIGN" in ran and "ALIGN" not in published.trainers(protocol):
        caption.append(published.NO_ALIGN)
    seeds = 0 if first.average else max(members["count"][~members["average"]])
    problems = _problems(members)
    return Table(_title(members), head, lines, caption, problems, first, seeds, cited)


def place_name(row) -> str:
    """The head of a row's column in a table."""
    if row.protocol.across == "columns":
        return row.protocol.columns[row.column]
    if row.protocol.across == "shots":
        return shots_text(row.shots)
    return "Average" if row.average else dataset_title(row.dataset)


def _ours(row) -> Cell:
    if row is None or row.mean is None:
        return Cell("-" if row is None else row.cell, paper=Cell("--"))
    number = f"{row.mean:.2f}"
    if not row.complete:
        return Cell(row.cell, paper=Cell(number + INCOMPLETE))
    return Cell(row.cell, row.mean, paper=Cell(number, row.mean))


def _published_name(name: str, trainer: str) -> list[Cell]:
    paper = Cell(method_name(trainer) + PUBLISHED)
    return [Cell(f"{name}, published", beside=True, paper=paper)]


def _theirs(number: float | None, misprint: bool | None = False) -> Cell:
    """A published number: it competes in a paper, unless it is a misprint."""
    if number is None:
        return Cell("-", paper=Cell("--"))
    if misprint:
        text = f"{number:.2f} (misprint)"
        return Cell(text, paper=Cell(text))
    return Cell(f"{number:.2f}", paper=Cell(f"{number:.2f}", float(f"{number:.2f}")))


def _difference(number: float | None) -> Cell:
    # + 0.0 makes a zero of what is rounded to -0.00
    return Cell("-" if number is None else f"{round(number, 2) + 0.0:+.2f}")


def _more(row) -> list[Cell]:
    """What stands behind the numbers: the data sets of an average, or what training took."""
    if row.protocol.across != "columns":
        return []
    if row.average:
        return [Cell(f"{row.count} of {row.of}")]
    if not row.protocol.costs:
        return []
    return [
        Cell("-" if row.num_params is None else f"{row.num_params:,}"),
        Cell("-" if row.train_seconds is None else f"{row.train_seconds:,.0f} s"),
        Cell(memory(row.peak_memory_mib)),
    ]


def not_run(members: pd.DataFrame, places: Iterable) -> dict[str, list[float | None]]:
    """The published numbers of the methods that are not among the members, by trainer.

    Args:
        members: of one table.
        places: a row of each of its columns; which method's does not matter.
    """
    protocol = members.iloc[0]["protocol"]
    found = {}
    for trainer in sorted(set(published.trainers(protocol)) - set(members["trainer"]), key=rank):
        numbers = []
        for row in places:
            theirs = published.find(protocol, trainer, row.dataset, row.shots)
            numbers.append(theirs.values[row.column] if theirs and row.comparable else None)
        if any(number is not None for number in numbers):
            found[trainer] = numbers
    return found


def _title(members: pd.DataFrame) -> str:
    first = members.iloc[0]
    protocol, by_shots = first["protocol"], first["protocol"].across == "shots"
    if first["average"]:
        details = [f"{protocol.title}, {average_name(first)}: accuracy (%)"]
    else:
        split = " and ".join(sorted(set().union(*members["splits"]))) or "test"
        details = [f"{table_name(first)}: accuracy (%) on {split} images"]
    if not by_shots and first["shots"]:
        details.append(shots_text(first["shots"]))
    if not first["average"]:
        details.append(seeds_text(first["seeds"]))
    return ", ".join(details)


def table_name(row) -> str:
    """What a table is of, in the words of its protocol: `Few-shot on DTD`."""
    return row.protocol.table_title.format(
        dataset=dataset_title(row.dataset),
        source=dataset_title(row.source),
        tried=" and ".join(row.settings),
    )


def average_name(row) -> str:
    """What an average is over, in words."""
    return f"average over {row.of} {'embedded ' if row.embedded else ''}data sets"


def _caption(members: pd.DataFrame) -> list[str]:
    """What to know about a table, in sentences."""
    first = members.iloc[0]
    protocol, has_h = first["protocol"], "h" in first["protocol"].columns
    if first["average"]:
        return [AVERAGE_H if has_h else AVERAGE]
    seeds = max(members["count"][~members["average"]])
    sentences = [spread_note(seeds, first["interval"])]
    if has_h:
        sentences.append(EACH_H)
    tried = " and ".join(first["settings"])
    if tried in protocol.variant_notes:
        sentences.append(protocol.variant_notes[tried])
    if members["average"].any():
        sentences.append(TARGET_AVERAGE)
    labels = ", ".join(filter(None, members["label"].unique()))
    if labels:
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def _problems(members: pd.DataFrame) -> list[str]:
    if members["average"].all():
        return [problem for problems in members["problems"] for problem in problems]
    found = []
    for row in members[~members["average"]].itertuples():
        place = row.column if row.protocol.across == "columns" else place_name(row)
        found += [f"{row.name}, {place}: {problem}" for problem in row.problems]
    return found


def seeds_text(seeds: Sequence[int]) -> str:
    """Some seeds in words: `seeds 1 2 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"


def first_head(protocol: Protocol) -> str:
    """What the lines of a protocol's tables are."""
    return "Variant" if protocol.by_variant else "Method"


def spread_note(seeds: int, interval: bool = False) -> str:
    """What stands in the cells of a table whose lines have so many seeds at most."""
    if seeds < 2:
        return ONE_SEED
    return INTERVAL if interval else STD


def memory(mebibytes: float | None) -> str:
    """An amount of memory as a person reads it."""
    if mebibytes is None:
        return "-"
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
