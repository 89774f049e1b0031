"""Build tables from rows: one for every data set, and one for the averages over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trainers.prompting.errors import printable
from trainers.prompting.record.metrics import BINS

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol, shots_text
from ..records import COSTS
from . import published
from .frame import apart_note, attack_note, computed_note, each_row
from .names import dataset_title, rank
from .summary import count_text, metric_of, minus_published, published_beside

if TYPE_CHECKING:
    import pandas as pd

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
ONE_SEED = "One seed."
NONE_YET = "No run has finished."
SPREADS = (STD, INTERVAL, ONE_SEED, NONE_YET)
H_NOTE = "H is that of the means, 2 Base New / (Base + New), as in the papers."
AVERAGE_NOTE = "Means over the data sets."
OTHER_DATA = (
    "Other classes, or another number of test images, than published: {}. Published numbers are "
    "left out."
)
TARGET_AVERAGE = "The average is over the targets."

MISPRINT = "(misprint)"
BOTH = "base and new"  # the column of metrics over both halves together


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
    rows: Sequence[Any] = ()  # of a protocol's table, the rows shown
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

    @property
    def of_averages(self) -> bool:
        """True if the numbers are averages over data sets."""
        return bool(self.rows) and self.rows[0].average

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


def _best(cells: Sequence[Cell]) -> set[int]:
    """Return the places of the cells with the best value; empty if all are equal."""
    values = {i: cell.value for i, cell in enumerate(cells) if cell.value is not None}
    if len(set(values.values())) < 2:
        return set()
    return {i for i, value in values.items() if value == max(values.values())}


def tables(rows: pd.DataFrame, all_published: bool = False) -> dict[Protocol, list[Table]]:
    """Return the tables of each protocol that has rows, a table for each data set and metric.

    Of each metric, averages over the data sets come last. With `all_published`, methods that were
    not run have their published numbers, too.
    """
    by_protocol = defaultdict(list)
    for _, members in rows.groupby(["metric", "table"], sort=False):
        by_protocol[protocol_of(members)].append(_table(list(each_row(members)), all_published))
    return dict(by_protocol)


def protocol_of(rows: Any) -> Protocol:
    """Return the protocol of a row, or of rows that have the same."""
    name = rows.protocol
    return PROTOCOLS[name if isinstance(name, str) else name.iloc[0]]


def _table(rows: list[Any], all_published: bool) -> Table:
    """Return a table with a line for each method and setting.

    Its columns are those of the protocol, data sets, or numbers of shots: see `Protocol.across`.
    Costs and published numbers are beside accuracies.
    """
    protocol, columns = protocol_of(rows[0]), [*protocol_of(rows[0]).columns, BOTH]
    rows.sort(key=lambda row: (row.average, row.shots, columns.index(row.column)))
    first, seeds, plain = rows[0], seeds_of(rows), rows[0].metric == "accuracy"
    places: dict[str, Any] = {}  # by head, the first row of any method
    methods: dict[Any, dict[str, Any]] = defaultdict(dict)  # by line, its rows by head
    for row in sorted(rows, key=lambda row: row.rank):
        methods[row.line if protocol.across == "columns" else row.name][place_name(row)] = row
    for row in rows:
        places.setdefault(place_name(row), row)
    head = ["Method", *places, *more(first)]
    lines: list[list[Cell]] = []
    cited: list[str] = []  # methods of lines of published numbers
    for by_head in methods.values():
        row = next(iter(by_head.values()))
        ours = [by_head.get(place) for place in places]
        cells = map(_of_one_run if plain and seeds < 2 else _ours, ours)
        name = Cell(published.with_marks(row.name, row.beyond))
        lines.append([name, *cells, *map(Cell, more(row).values())])
        if theirs := _published_line(row.name, row.trainer, ours):
            cited.append(row.trainer)
            name = Cell(f"{row.name}, difference", beside=True)
            lines += [theirs, [name, *map(_difference, ours)]]
    group = first.group_published
    others = published.trainers(protocol, group) if all_published else []
    for trainer in sorted(set(others) - {row.trainer for row in rows}, key=rank):
        if theirs := _published_line(trainer, trainer, places.values()):
            cited.append(trainer)
            lines.append(theirs)
    lines = [line + [Cell("")] * (len(head) - len(line)) for line in lines]
    marks = set().union(*(row.beyond for row in rows))
    caption = _caption(rows) + published.caption(protocol, cited, marks, group)
    if any(cell.text.endswith(MISPRINT) for line in lines for cell in line):
        caption.append(published.MISPRINT)
    comparable = {row.trainer for row in rows if row.comparable}
    if not group and "ALIGN" in comparable and "ALIGN" not in published.trainers(protocol):
        caption.append(published.NO_ALIGN)
    problems = [
        problem if row.average else f"{row.name}, {place}: {problem}"
        for row in rows
        if row.average == first.average  # those of a column of averages repeat the others
        for place in [row.column if protocol.across == "columns" else place_name(row)]
        for problem in row.problems
    ]
    return Table(title_of(rows), head, lines, caption, problems, rows)


def place_name(row: Any) -> str:
    """Return the head of a row's column in a table."""
    protocol = protocol_of(row)
    if protocol.across == "columns":
        return protocol.columns.get(row.column, row.column.capitalize())
    if protocol.across == "shots":
        return shots_text(row.shots)
    return "Average" if row.average else dataset_title(row.dataset)


def _ours(row: Any) -> Cell:
    """Return the mean and spread, with the count if seeds or data sets are missing; or why not."""
    if row is None or number_or_none(row.mean) is None:
        problems = row.problems if row else []
        return Cell(problems[0].partition(":")[0] if problems else "-")
    spread, metric = number_or_none(row.spread), metric_of(row.metric)
    text = metric.text(row.mean)
    value = float(text) if metric.more_is_better else -float(text)
    text += "" if spread is None else f" ± {metric.text(spread)}"
    competes = row.complete and metric.more_is_better is not None
    return Cell(text + count_text(row), value if competes else None)


def _of_one_run(row: Any) -> Cell:
    """Return the same with the number of test images, unless the number is an average or H."""
    images = None if row is None or row.average else number_or_none(row.images)
    return _ours(row)._replace(images=images and int(images))


def _published_line(name: str, trainer: str, rows: Iterable[Any]) -> list[Cell]:
    """Return the line of a method's published numbers in the places of these rows, if any."""
    pairs = [(row, row and published_beside(row, trainer)) for row in rows]
    first = next((theirs for _, theirs in pairs if theirs), None)
    if first is None:
        return []
    text = published.with_marks(f"{name}, published", published.in_order(first.kinds))
    cells = [_theirs(x.values[row.column], x.misprint) if x else Cell("-") for row, x in pairs]
    return [Cell(text, beside=True), *cells]


def _theirs(number: float, misprint: bool) -> Cell:
    text = f"{number:.2f} {MISPRINT}" if misprint else f"{number:.2f}"
    return Cell(text, None if misprint else number)


def _difference(row: Any) -> Cell:
    number = None if row is None else minus_published(row)
    # + 0.0 turns -0.00 into 0.00
    return Cell("-" if number is None else f"{round(number, 2) + 0.0:+.2f}")


def more(row: Any) -> dict[str, str]:
    """Return the columns after the numbers: the data sets of an average, or costs of training."""
    protocol = protocol_of(row)
    if row.average:
        columns = {"Data sets": f"{row.count} of {row.of}"}
        return columns if protocol.across == "columns" else {}
    if not protocol.costs or row.metric != "accuracy":
        return {}
    values = {key: number_or_none(getattr(row, key)) for key in COSTS}
    return {
        cost.head: "-" if values[key] is None else cost.text(values[key])
        for key, cost in COSTS.items()
        if cost.everywhere
    }


def number_or_none(number: Any) -> Any:
    """Return a number of a data frame; None if it is missing there."""
    return None if number is None or number != number else number


def title_of(rows: Sequence[Any]) -> str:
    """Return the title of the rows of a table, or of several tables of a protocol together."""
    first, protocol = rows[0], protocol_of(rows[0])
    metric = metric_of(first.metric).head if first.metric != "accuracy" else "accuracy (%)"
    if first.average:
        details = [f"{protocol.title}, {average_name(first)}: {metric}"]
    else:
        tested = [row for row in rows if not row.average]
        splits = sorted({split for row in rows for split in row.split.split(" and ")})
        joint = protocol.across != "dataset" and len({row.dataset for row in tested}) > 1
        what = protocol.title if joint else table_name(first)
        details = [f"{what}: {metric} on {' and '.join(splits)} images"]
    if protocol.across != "shots" and first.shots:
        details.append(shots_text(first.shots))
    if not first.average:
        details.append(seeds_text(sorted({seed for row in tested for seed in row.seeds})))
    return ", ".join(details)


def table_name(row: Any) -> str:
    """Return the name of a table by its protocol and data set, as `Few-shot on DTD`."""
    return protocol_of(row).table_title.format(
        dataset=dataset_title(row.dataset), source=dataset_title(row.source)
    )


def average_name(row: Any, count: int | None = None) -> str:
    """Describe an average (or that of `count` data sets) in words: `average over 11 data sets`."""
    kind = "embedded " * row.embedded
    return f"average over {count or row.of} {kind}data sets"


def _caption(rows: list[Any]) -> list[str]:
    """Return the sentences below a table."""
    first, averages = rows[0], [row for row in rows if row.average]
    what = [*explain([first.metric]), *h_note(row.column for row in rows)]
    if first.average:
        return [AVERAGE_NOTE, *what, *edited_note(rows), *computed_note(rows),
                *apart_note(averages), *attack_note(rows)]  # fmt: skip
    seeds = seeds_of(rows)
    spread = [spread_note(seeds, first.interval)] * (seeds > 0 or first.metric == "accuracy")
    sentences = [*spread, *what, *edited_note(rows), *computed_note(rows)]
    sentences += [*repeated_note(rows), *attack_note(rows)]
    if names := ", ".join(dict.fromkeys(dataset_title(x.dataset) for x in rows if x.other_data)):
        sentences.append(OTHER_DATA.format(names))
    teachers = {row.name: row.teacher for row in rows if number_or_none(row.teacher)}
    sentences += [f"Teacher of {name}: {text}." for name, text in teachers.items()]
    starts = {row.name: row.start for row in rows if number_or_none(row.start)}
    sentences += [f"Start of {name}: {text}." for name, text in starts.items()]
    if averages:
        sentences += [TARGET_AVERAGE, *apart_note(averages)]
    if labels := ", ".join(filter(None, dict.fromkeys(row.label for row in rows))):
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def edited_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the methods with runs of other code than the present, if any."""
    names = dict.fromkeys(f"{row.name} ({', '.join(row.edited)})" for row in rows if row.edited)
    return [f"Other code than the present, at least in part: {', '.join(names)}."] if names else []


def repeated_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the seeds of a line whose losses are all equal, if any are."""
    repeated = {row.name: sorted(row.repeated) for row in rows if isinstance(row.repeated, set)}
    names = ", ".join(f"{name} ({seeds_text(seeds)})" for name, seeds in repeated.items())
    return [f"Seeds whose losses are all equal, as of one training: {names}."] if names else []


def h_note(columns: Iterable[str]) -> list[str]:
    """Return the sentence that explains H, if it is one of these columns."""
    return [H_NOTE] if "h" in columns else []


def explain(names: Iterable[str]) -> list[str]:
    """Return a sentence on those of these metrics that need one, if any."""
    notes = [note.format(BINS) for name in names if (note := metric_of(name).note)]
    return [f"{'; '.join(notes)}."] if notes else []


def seeds_of(rows: Iterable[Any]) -> int:
    """Return the largest number of seeds that a mean in these rows is over."""
    return max((row.count for row in rows if not row.average), default=0)


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds in words, as `seeds 1 2 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"


def spread_note(seeds: int, interval: bool = False) -> str:
    """Return the sentence that explains the cells of a table, given its largest number of seeds."""
    if seeds < 2:
        return ONE_SEED if seeds else NONE_YET
    return INTERVAL if interval else STD
