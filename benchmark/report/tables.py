"""From rows of numbers to tables: of every data set, and of the averages over them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean

from ..protocols.runs import TRANSFER
from . import published
from .rows import (
    BASE_NEW,
    TITLES,
    Average,
    Cell,
    Row,
    averages,
    kind,
    methods,
    settings,
    shots_text,
)

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
EACH_H = "H = 2 Base New / (Base + New), computed for each seed and then averaged."
AVERAGE = "Means over the data sets."
AVERAGE_H = "Means over the data sets; H is that of the averages, as in the papers."
TARGET_AVERAGE = "The average is over the targets."
CONVEX = "beta weighs the token level: cost (1 - beta) (1 - cos) + beta d."
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


def tables(listed: list[Row]) -> dict[str, list[Table]]:
    """The tables of each protocol that has rows: of every data set, then of the averages."""
    found = defaultdict(list)
    for members in _grouped(listed, lambda row: row.table):
        found[members[0].protocol].append(MAKERS[members[0].protocol](members))
    for members in _grouped(averages(listed), lambda average: average.group):
        protocol = members[0].group[0]
        if protocol not in TRANSFER:  # there the average is a column
            found[protocol].append(_average_table(protocol, members))
    return dict(found)


def _grouped(items: Iterable, key: Callable) -> Iterable[list]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups.values()


def _title(what: str, members: list[Row], *details: str) -> str:
    split = " and ".join(sorted(set().union(*(row.splits for row in members)))) or "test"
    seeds = f"seeds {' '.join(map(str, members[0].seeds))}"
    return ", ".join([f"{what}: accuracy (%) on {split} images", *details, seeds])


def _caption(members: list[Row], *sentences: str) -> list[str]:
    first = INTERVAL if members[0].interval else STD
    labels = ", ".join(dict.fromkeys(row.label for row in members if row.label))
    return [first, *sentences, *[f"Read from log.txt files: {labels}."] * bool(labels)]


def _problems(members: list[Row], where: Callable[[Row, str], str]) -> list[str]:
    return [
        f"{row.method}, {where(row, column)}: {problem}"
        for row in members
        for column in row.columns
        for problem in row.problems[column]
    ]


def _base2new(members: list[Row]) -> Table:
    first = members[0]
    head = ["Method", *BASE_NEW.values(), "Trained parameters", "Training", "Peak memory"]
    lines = [
        [
            Cell(row.method),
            *(row.cell(column) for column in BASE_NEW),
            Cell("-" if row.num_params is None else f"{row.num_params:,}"),
            Cell(f"{mean(row.train_seconds):,.0f} s" if row.train_seconds else "-"),
            Cell(memory(row.peak_memory)),
        ]
        for row in members
    ]
    return Table(
        _title(f"Base-to-new on {first.dataset}", members, shots_text(first.shots)),
        head,
        lines,
        _caption(members, EACH_H),
        _problems(members, lambda row, column: column),
    )


def memory(mebibytes: float | None) -> str:
    """An amount of memory as a person reads it."""
    if mebibytes is None:
        return "-"
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def _ablation(members: list[Row]) -> Table:
    first, tried = members[0], kind(members[0].variant)
    several = len({row.method for row in members}) > 1
    lines = [
        [_variant(row, several), *(row.cell(column) for column in BASE_NEW)] for row in members
    ]
    return Table(
        _title(f"Ablation of {tried} on {first.dataset}", members, shots_text(first.shots)),
        ["Variant", *BASE_NEW.values()],
        lines,
        _caption(members, EACH_H, *[CONVEX] * (tried == "beta")),
        _problems(members, lambda row, column: f"{_variant(row, False).text}, {column}"),
    )


def _variant(of: Row | Average, named: bool) -> Cell:
    """The variant of an ablation, behind its method where this is to be named."""
    values = [f"{name} = {value:g}" for name, value in settings(of.variant)]
    return Cell(", ".join([*[of.method] * named, *values]))


def _cells(at: dict, columns: Iterable) -> list[Cell]:
    """The accuracies of the rows or averages in these columns."""
    return [at[column].cell("accuracy") if column in at else Cell("-") for column in columns]


def _few_shot(members: list[Row]) -> Table:
    shots = sorted({row.shots for row in members})
    compared = [row for row in members if published.published(row) is not None]
    lines = []
    for method in methods(members):
        at = {row.shots: row for row in members if row.method == method}
        lines.append([Cell(method), *_cells(at, shots)])
        theirs = {row.shots: row for row in compared if row.method == method}
        if theirs:
            lines += [
                [Cell(f"{method}, published"), *(_theirs(theirs.get(number)) for number in shots)],
                [Cell(f"{method}, difference"), *(_minus(theirs.get(number)) for number in shots)],
            ]
    notes = [published.CAPTION] * bool(compared)
    notes += [MISPRINT] * any(published.misprint(row) for row in compared)
    return Table(
        _title(f"Few-shot on {members[0].dataset}", members),
        ["Method", *map(shots_text, shots)],
        lines,
        _caption(members, *notes),
        _problems(members, lambda row, column: shots_text(row.shots)),
    )


def _theirs(row: Row | None) -> Cell:
    if row is None:
        return Cell("-")
    mark = " (misprint)" if published.misprint(row) else ""
    return Cell(f"{published.published(row):.2f}{mark}")


def _minus(row: Row | None) -> Cell:
    difference = published.difference(row) if row else None
    return Cell("-" if difference is None else f"{difference:+.2f}")


def _transfer(members: list[Row]) -> Table:
    first = members[0]
    datasets = list(dict.fromkeys(row.dataset for row in members))
    means = {average.method: average for average in averages(members)}
    lines = []
    for method in methods(members):
        on = {row.dataset: row for row in members if row.method == method}
        average = _cells(means, [method]) if means else []
        lines.append([Cell(method), *_cells(on, datasets), *average])
    what = f"{TITLES[first.protocol]} from {first.source}"
    return Table(
        _title(what, members, *[shots_text(first.shots)] * bool(first.shots)),
        ["Method", *datasets, *["Average"] * bool(means)],
        lines,
        _caption(members, *[TARGET_AVERAGE] * bool(means)),
        _problems(members, lambda row, column: row.dataset),
    )


def _average_table(protocol: str, members: list[Average]) -> Table:
    title = f"{TITLES[protocol]}, {members[0]}: accuracy (%)"
    problems = [problem for average in members for problem in average.problems]
    if protocol == "few_shot":
        shots = sorted({average.shots for average in members})
        lines = []
        for method in dict.fromkeys(average.method for average in members):
            at = {average.shots: average for average in members if average.method == method}
            lines.append([Cell(method), *_cells(at, shots)])
        return Table(title, ["Method", *map(shots_text, shots)], lines, [AVERAGE], problems)
    ablated = protocol == "ablation"
    several = not ablated or len({average.method for average in members}) > 1
    lines = [
        [
            _variant(average, several),
            *(average.cell(column) for column in BASE_NEW),
            Cell(f"{average.datasets} of {average.of}"),
        ]
        for average in members
    ]
    head = ["Variant" if ablated else "Method", *BASE_NEW.values(), "Data sets"]
    title = f"{title}, {shots_text(members[0].shots)}"
    return Table(title, head, lines, [AVERAGE_H], problems)


MAKERS = {
    "few_shot": _few_shot,
    "base2new": _base2new,
    "cross_dataset": _transfer,
    "domain_generalization": _transfer,
    "ablation": _ablation,
}
