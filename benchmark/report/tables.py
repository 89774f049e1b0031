"""From rows of numbers to tables: of every data set, and of the averages over them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import mean

from ..protocols.base import Protocol, shots_text
from . import published
from .rows import Average, Cell, Row, averages, methods

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
EACH_H = "H = 2 Base New / (Base + New), computed for each seed and then averaged."
AVERAGE = "Means over the data sets."
AVERAGE_H = "Means over the data sets; H is that of the averages, as in the papers."
TARGET_AVERAGE = "The average is over the targets."
MISPRINT = "A number marked as a misprint cannot be right: no difference is computed."


@dataclass(frozen=True)
class Table:
    """A title, a head, lines of cells (the first names the line), what to know, what is missing."""

    title: str
    head: list[str]
    lines: list[list[Cell]]
    caption: list[str]
    problems: list[str] = field(default_factory=list)

    def best(self, column: int) -> set[int]:
        """The lines with the best number of a column, as far as it shows; none if all are equal."""
        values = {
            i: round(line[column].value, 2)
            for i, line in enumerate(self.lines)
            if line[column].value is not None
        }
        best = {i for i, value in values.items() if value == max(values.values())}
        return best if len(best) < len(values) else set()


def tables(listed: list[Row]) -> dict[Protocol, list[Table]]:
    """The tables of each protocol that has rows: of every data set, then of the averages."""
    found = defaultdict(list)
    for members in grouped(listed, lambda row: row.table):
        protocol = members[0].protocol
        make = _of_columns if protocol.across == "columns" else _of_methods
        found[protocol].append(make(members))
    for members in grouped(averages(listed), lambda average: average.group):
        protocol = members[0].protocol
        if protocol.across != "dataset":  # there the average is a column
            found[protocol].append(_of_averages(members))
    return dict(found)


def grouped(items: Iterable, key: Callable) -> Iterable[list]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups.values()


def _of_columns(members: list[Row]) -> Table:
    """A line for each method, or each setting of an ablation; the columns are the protocol's."""
    protocol = members[0].protocol
    several = len({row.method for row in members}) > 1
    head = [first_head(protocol), *protocol.columns.values()]
    lines = []
    for row in members:
        name = line_name(row, several)
        lines.append([Cell(name), *(row.cell(column) for column in protocol.columns)])
    if protocol.costs:
        head += ["Trained parameters", "Training", "Peak memory"]
        for line, row in zip(lines, members, strict=True):
            line += _costs(row)
    return Table(_title(members), head, lines, _caption(members), _problems(members))


def _of_methods(members: list[Row]) -> Table:
    """A line for each method; the columns are numbers of shots, or data sets and their average."""
    across = attrgetter(members[0].protocol.across)
    columns = list(dict.fromkeys(across(row) for row in members))
    means = {average.method: average for average in averages(members)}
    lines = []
    for method in methods(members):
        at = {across(row): row for row in members if row.method == method}
        line = [Cell(method), *(_accuracy(at.get(column)) for column in columns)]
        if means:
            line.append(_accuracy(means.get(method)))
        lines.append(line)
        if any(published.published(row) is not None for row in at.values()):
            theirs = [_theirs(at.get(column)) for column in columns]
            differences = [_difference(at.get(column)) for column in columns]
            lines.append([Cell(f"{method}, published"), *theirs])
            lines.append([Cell(f"{method}, difference"), *differences])
    head = ["Method", *(column_head(column) for column in columns)]
    if means:
        head.append("Average")
    return Table(_title(members), head, lines, _caption(members), _problems(members))


def _of_averages(members: list[Average]) -> Table:
    """The averages over data sets, in the shape of the tables of each data set."""
    protocol = members[0].protocol
    title = f"{protocol.title}, {members[0]}: accuracy (%)"
    caption = [AVERAGE_H if "h" in protocol.columns else AVERAGE]
    problems = [problem for average in members for problem in average.problems]
    if protocol.across == "shots":
        shots = sorted({average.shots for average in members})
        lines = []
        for method in dict.fromkeys(average.method for average in members):
            at = {average.shots: average for average in members if average.method == method}
            lines.append([Cell(method), *(_accuracy(at.get(number)) for number in shots)])
        return Table(title, ["Method", *map(shots_text, shots)], lines, caption, problems)
    several = len({average.method for average in members}) > 1
    lines = []
    for average in members:
        name = line_name(average, several)
        cells = [average.cell(column) for column in protocol.columns]
        lines.append([Cell(name), *cells, Cell(f"{average.datasets} of {average.of}")])
    head = [first_head(protocol), *protocol.columns.values(), "Data sets"]
    title = f"{title}, {shots_text(members[0].shots)}"
    return Table(title, head, lines, caption, problems)


def _title(members: list[Row]) -> str:
    first = members[0]
    names = {name: getattr(first, name) for name in ("dataset", "source", "tried")}
    split = " and ".join(sorted(set().union(*(row.splits for row in members)))) or "test"
    what = first.protocol.table_title.format(**names)
    details = [f"{what}: accuracy (%) on {split} images"]
    if first.protocol.across != "shots" and first.shots:
        details.append(shots_text(first.shots))
    details.append(f"seeds {' '.join(map(str, first.seeds))}")
    return ", ".join(details)


def _caption(members: list[Row]) -> list[str]:
    """What to know about a table, in sentences."""
    first, protocol = members[0], members[0].protocol
    sentences = [INTERVAL if first.interval else STD]
    if "h" in protocol.columns:
        sentences.append(EACH_H)
    if first.tried in protocol.variant_notes:
        sentences.append(protocol.variant_notes[first.tried])
    compared = [row for row in members if published.published(row) is not None]
    if compared:
        sentences.append(published.CAPTION)
    if any(published.misprint(row) for row in compared):
        sentences.append(MISPRINT)
    if protocol.across == "dataset" and averages(members):
        sentences.append(TARGET_AVERAGE)
    labels = ", ".join(dict.fromkeys(row.label for row in members if row.label))
    if labels:
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def _problems(members: list[Row]) -> list[str]:
    protocol, found = members[0].protocol, []
    for row in members:
        where = [row.method]
        if protocol.by_variant:
            where.append(_setting(row, False))
        for column in protocol.columns:
            place = column
            if protocol.across != "columns":
                place = column_head(getattr(row, protocol.across))
            for problem in row.problems[column]:
                found.append(f"{', '.join([*where, place])}: {problem}")
    return found


def first_head(protocol: Protocol) -> str:
    return "Variant" if protocol.by_variant else "Method"


def column_head(column: int | str) -> str:
    """A number of shots in words, or the name of a data set."""
    return shots_text(column) if isinstance(column, int) else column


def line_name(of: Row | Average, several: bool = False) -> str:
    """The name of a line: a method, or a setting of an ablation, of `several` methods or of one."""
    return _setting(of, several) if of.protocol.by_variant else of.method


def _setting(of: Row | Average, with_method: bool) -> str:
    """The setting of an ablation, behind its method where this is to be named."""
    values = [f"{name} = {value:g}" for name, value in of.settings.items()]
    return ", ".join([of.method, *values] if with_method else values)


def _accuracy(of: Row | Average | None) -> Cell:
    return of.cell("accuracy") if of else Cell("-")


def _theirs(row: Row | None) -> Cell:
    number = published.published(row) if row else None
    if number is None:
        return Cell("-")
    mark = " (misprint)" if published.misprint(row) else ""
    return Cell(f"{number:.2f}{mark}")


def _difference(row: Row | None) -> Cell:
    difference = published.difference(row) if row else None
    return Cell("-" if difference is None else f"{difference:+.2f}")


def _costs(row: Row) -> list[Cell]:
    """The number of trained parameters, and time and memory of the training."""
    return [
        Cell("-" if row.num_params is None else f"{row.num_params:,}"),
        Cell(f"{mean(row.train_seconds):,.0f} s" if row.train_seconds else "-"),
        Cell(memory(row.peak_memory)),
    ]


def memory(mebibytes: float | None) -> str:
    """An amount of memory as a person reads it."""
    if mebibytes is None:
        return "-"
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
