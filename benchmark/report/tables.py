"""From rows of numbers to tables: of every data set, and of the averages over them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import mean

from trainers.prompting.errors import printable

from ..protocols.base import Protocol, shots_text
from . import published
from .averages import Average, averages
from .methods import rank
from .names import dataset_name
from .rows import Cell, Row, methods, setting_texts

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
ONE_SEED = "One seed."
EACH_H = "H = 2 Base New / (Base + New), computed for each seed and then averaged."
AVERAGE = "Means over the data sets."
AVERAGE_H = "Means over the data sets; H is that of the averages, as in the papers."
TARGET_AVERAGE = "The average is over the targets."

# A column of a line: the row or average that is shown there, if any, and which of its numbers.
Place = tuple[Row | Average | None, str]


@dataclass
class Table:
    """A title, a head, lines of cells (the first names the line), what to know, what is missing.

    Names in them may come from folders and records: none can leave its line.
    """

    title: str
    head: list[str]
    lines: list[list[Cell]]
    caption: list[str]
    problems: list[str] = field(default_factory=list)
    of_averages: bool = False

    def __post_init__(self):
        self.title = printable(self.title)
        self.head = [printable(name) for name in self.head]
        self.lines = [
            [cell._replace(text=printable(cell.text)) for cell in line] for line in self.lines
        ]
        self.problems = [printable(problem) for problem in self.problems]

    def best(self, column: int, place: int = 0) -> set[int]:
        """The lines with the best number of a column, as far as it shows; none if all are equal.

        Args:
            column: counted from 0.
            place: 1 for the second best, and so on.
        """
        values = {
            i: round(line[column].value, 2)
            for i, line in enumerate(self.lines)
            if line[column].value is not None
        }
        ranked = sorted(set(values.values()), reverse=True)
        if len(ranked) < max(2, place + 1):
            return set()
        return {i for i, value in values.items() if value == ranked[place]}


def tables(listed: list[Row], all_published: bool = False) -> dict[Protocol, list[Table]]:
    """The tables of each protocol that has rows: of every data set, then of the averages.

    Args:
        listed: the rows.
        all_published: the published numbers of methods that were not run are shown, too.
    """
    found = defaultdict(list)
    for members in grouped(listed, lambda row: row.table):
        protocol = members[0].protocol
        make = _of_columns if protocol.across == "columns" else _of_methods
        found[protocol].append(make(members, all_published))
    for members in grouped(averages(listed), lambda average: average.group):
        protocol = members[0].protocol
        if protocol.across != "dataset":  # there the average is a column
            found[protocol].append(_of_averages(members, all_published))
    return dict(found)


def grouped(items: Iterable, key: Callable) -> Iterable[list]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups.values()


def _of_columns(members: list[Row], all_published: bool) -> Table:
    """A line for each method, or each setting of an ablation; the columns are the protocol's."""
    protocol = members[0].protocol
    several = len({row.method for row in members}) > 1
    head = [first_head(protocol), *protocol.columns.values()]
    lines, shown = [], []
    for row in members:
        places: list[Place] = [(row, column) for column in protocol.columns]
        lines += _lines(line_name(row, several), places, _costs(row) if protocol.costs else [])
        shown.append(row)
    if protocol.costs:
        head += ["Trained parameters", "Training", "Peak memory"]
    places = [(members[0], column) for column in protocol.columns]
    others = not_run(members, places) if all_published else {}
    lines += [_published_line(*other, len(head)) for other in others.items()]
    caption = [*_caption(members), *_about_published(members, shown, others)]
    return Table(_title(members), head, lines, caption, _problems(members))


def _of_methods(members: list[Row], all_published: bool) -> Table:
    """A line for each method; the columns are numbers of shots, or data sets and their average."""
    across = attrgetter(members[0].protocol.across)
    columns = list(dict.fromkeys(across(row) for row in members))
    means = {average.method: average for average in averages(members)}
    lines, shown = [], []
    for method in methods(members):
        at = {across(row): row for row in members if row.method == method}
        of = [at.get(column) for column in columns]
        if means:
            of.append(means.get(method))
        lines += _lines(method, [(each, "accuracy") for each in of])
        shown += [each for each in of if each]
    of = [next(row for row in members if across(row) == column) for column in columns]
    places: list[Place] = [(each, "accuracy") for each in [*of, *list(means.values())[:1]]]
    head = ["Method", *(column_head(column) for column in columns)]
    if means:
        head.append("Average")
    others = not_run(members, places) if all_published else {}
    lines += [_published_line(*other, len(head)) for other in others.items()]
    caption = [*_caption(members), *_about_published(members, shown, others)]
    return Table(_title(members), head, lines, caption, _problems(members))


def _of_averages(members: list[Average], all_published: bool) -> Table:
    """The averages over data sets, in the shape of the tables of each data set."""
    protocol = members[0].protocol
    title = f"{protocol.title}, {members[0]}: accuracy (%)"
    caption = [AVERAGE_H if "h" in protocol.columns else AVERAGE]
    problems = [problem for average in members for problem in average.problems]
    lines = []
    if protocol.across == "shots":
        shots = sorted({average.shots for average in members})
        for method in dict.fromkeys(average.method for average in members):
            at = {average.shots: average for average in members if average.method == method}
            lines += _lines(method, [(at.get(number), "accuracy") for number in shots])
        head = ["Method", *map(shots_text, shots)]
        of = [next(a for a in members if a.shots == number) for number in shots]
        places: list[Place] = [(average, "accuracy") for average in of]
    else:
        several = len({average.method for average in members}) > 1
        for average in members:
            places = [(average, column) for column in protocol.columns]
            counts = Cell(f"{average.datasets} of {average.of}")
            lines += _lines(line_name(average, several), places, [counts])
        head = [first_head(protocol), *protocol.columns.values(), "Data sets"]
        title = f"{title}, {shots_text(members[0].shots)}"
    others = not_run(members, places) if all_published else {}
    lines += [_published_line(*other, len(head)) for other in others.items()]
    caption += _about_published(members, members, others)
    return Table(title, head, lines, caption, problems, of_averages=True)


def _lines(name: str, places: list[Place], more: Sequence[Cell] = ()) -> list[list[Cell]]:
    """A line of our numbers, with `more` behind them; below it the published ones, if any."""
    found = [[Cell(name), *(of.cell(column) if of else Cell("-") for of, column in places), *more]]
    if any(of and published.published(of) for of, _ in places):
        blank = [Cell("")] * len(more)
        theirs = [_theirs(of, column) for of, column in places]
        found.append([Cell(f"{name}, published", beside=True), *theirs, *blank])
        differences = [_difference(of, column) for of, column in places]
        found.append([Cell(f"{name}, difference", beside=True), *differences, *blank])
    return found


def not_run(members: Sequence[Row | Average], places: list[Place]) -> dict[str, list[float | None]]:
    """The published numbers of the methods that are not among the members, by trainer.

    Args:
        members: of one table.
        places: its columns; which method is there does not matter.
    """
    found = {}
    if any(of.comparable for of in members):
        ran = {of.trainer for of in members}
        for trainer in sorted(set(published.trainers(members[0].protocol)) - ran, key=rank):
            numbers = [published.of_trainer(trainer, of, column) for of, column in places]
            if any(number is not None for number in numbers):
                found[trainer] = numbers
    return found


def _published_line(trainer: str, numbers: list[float | None], width: int) -> list[Cell]:
    cells = [Cell("-" if number is None else f"{number:.2f}") for number in numbers]
    return [
        Cell(f"{trainer}, published", beside=True),
        *cells,
        *[Cell("")] * (width - 1 - len(cells)),
    ]


def _about_published(
    members: Sequence[Row | Average], shown: Sequence[Row | Average], others: Iterable[str]
) -> list[str]:
    """Where the published numbers come from, and which are not to be had."""
    protocol = members[0].protocol
    beside = [of for of in shown if published.published(of)]
    sentences = published.caption(protocol, [*(of.trainer for of in beside), *others])
    if any(published.misprint(of) for of in beside):
        sentences.append(published.MISPRINT)
    ran = {of.trainer for of in members if of.comparable}
    if "ALIGN" in ran and "ALIGN" not in published.trainers(protocol):
        sentences.append(published.NO_ALIGN)
    return sentences


def title_names(row: Row) -> dict[str, str]:
    """What a protocol's `table_title` may name."""
    names = {name: dataset_name(getattr(row, name)) for name in ("dataset", "source")}
    return names | {"tried": row.tried}


def _title(members: list[Row]) -> str:
    first = members[0]
    names = title_names(first)
    split = " and ".join(sorted(set().union(*(row.splits for row in members)))) or "test"
    what = first.protocol.table_title.format(**names)
    details = [f"{what}: accuracy (%) on {split} images"]
    if first.protocol.across != "shots" and first.shots:
        details.append(shots_text(first.shots))
    details.append(seeds_text(first.seeds))
    return ", ".join(details)


def _caption(members: list[Row]) -> list[str]:
    """What to know about a table, in sentences."""
    first, protocol = members[0], members[0].protocol
    sentences = [spread_note(max(row.count for row in members), first.interval)]
    if "h" in protocol.columns:
        sentences.append(EACH_H)
    if first.tried in protocol.variant_notes:
        sentences.append(protocol.variant_notes[first.tried])
    if protocol.across == "dataset" and averages(members):
        sentences.append(TARGET_AVERAGE)
    labels = ", ".join(dict.fromkeys(row.label for row in members if row.label))
    if labels:
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def _problems(members: list[Row]) -> list[str]:
    protocol, found = members[0].protocol, []
    for row in members:
        for column in protocol.columns:
            place = column
            if protocol.across != "columns":
                place = column_head(getattr(row, protocol.across))
            for problem in row.problems[column]:
                found.append(f"{row.name}, {place}: {problem}")
    return found


def seeds_text(seeds: Sequence[int]) -> str:
    """Some seeds in words: `seeds 1 2 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"


def first_head(protocol: Protocol) -> str:
    return "Variant" if protocol.by_variant else "Method"


def column_head(column: int | str) -> str:
    """A number of shots in words, or the name of a data set."""
    return shots_text(column) if isinstance(column, int) else dataset_name(column)


def line_name(of: Row | Average, several: bool = False) -> str:
    """The name of a line: a method, or a setting of an ablation, of `several` methods or of one."""
    if not of.protocol.by_variant:
        return of.method
    return ", ".join([of.method] * several + setting_texts(of.settings))


def spread_note(seeds: int, interval: bool = False) -> str:
    """What stands in the cells of a table whose lines have so many seeds at most."""
    if seeds < 2:
        return ONE_SEED
    return INTERVAL if interval else STD


def _theirs(of: Row | Average | None, column: str) -> Cell:
    theirs = published.published(of) if of else None
    if theirs is None:
        return Cell("-")
    mark = " (misprint)" if published.misprint(of) else ""
    return Cell(f"{theirs.values[column]:.2f}{mark}")


def _difference(of: Row | Average | None, column: str) -> Cell:
    difference = published.difference(of, column) if of else None
    # + 0.0 makes a zero of what is rounded to -0.00
    return Cell("-" if difference is None else f"{round(difference, 2) + 0.0:+.2f}")


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
