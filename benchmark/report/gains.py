"""Gains over zero-shot CLIP on each data set: their mean, and the worst one."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol, shots_text
from .frame import each_row
from .grids import averages_title, place_of
from .names import dataset_title
from .published import meaning, with_marks
from .summary import count_text, summarise
from .tables import Cell, Table, h_note, protocol_of

ZERO_SHOT = "ZeroshotCLIP"
NOTE = (
    "Means over the data sets, and gains over zero-shot CLIP in points: of the mean, the worst one "
    "and that of each data set."
)
WITHOUT = "no finished run of ZeroshotCLIP: add it to --trainers"
ONE_SET = "only one data set: the worst of several is shown"


class Gain(NamedTuple):
    """A line of a table: rows of the method's average and of its data sets, and its gains."""

    average: Any
    rows: dict[str, Any]
    gains: dict[str, float]

    @property
    def worst(self) -> str:
        """The data set with the least gain, the first of several."""
        return min(self.gains, key=lambda name: round(self.gains[name], 2))


class Group(NamedTuple):
    """A table: the average of zero-shot CLIP, the data sets, and the lines."""

    zero: Any
    datasets: list[str]
    lines: list[Gain]


class Gains:
    """Tables with a line for each method, for the protocol of one setting without validation.

    Raises:
        UserError: there is no zero-shot CLIP, or there is one data set.
    """

    heading = "Gains over zero-shot CLIP"

    def __init__(self, tidy: pd.DataFrame):
        cells = summarise(tidy, beside_published=False)
        cells = cells[(cells["dataset"] != cells["source"]) & cells["mean"].notna()]
        self.groups: list[Group] = []
        self.problems: dict[Protocol, list[str]] = {}
        clips = cells["backbones"].map(sorted).map(" ".join)
        for _, members in cells.groupby(["group", "column", clips], sort=False):
            self._add(list(each_row(members)))
        if not self.groups:
            reasons = [sentence for sentences in self.problems.values() for sentence in sentences]
            raise UserError(f"--gains has nothing to show: {(reasons or [WITHOUT])[0]}")

    def _add(self, cells: list[Any]) -> None:
        """Add the tables of a protocol and column, one for each number of shots."""
        protocol, column = protocol_of(cells[0]), cells[0].column
        by_name: dict[tuple[int, str], dict[str, Any]] = {}
        for cell in sorted(cells, key=lambda cell: cell.rank):
            by_dataset = by_name.setdefault((cell.shots, cell.name), {})
            by_dataset["" if cell.average else cell.dataset] = cell
        zeros = [x for x in by_name.values() if next(iter(x.values())).trainer == ZERO_SHOT]
        zero = {name: cell for name, cell in zeros[0].items() if name} if zeros else {}
        if len(zero) < 2:
            where = f"{protocol.title}, {protocol.columns[column]}"
            why = ONE_SET if zero else WITHOUT
            self.problems.setdefault(protocol, []).append(f"{where}: {why}")
            return
        for shots in sorted({shots for shots, _ in by_name}):
            lines = []
            for (own_shots, _), by_dataset in by_name.items():
                ours = {name: by_dataset[name] for name in zero if name in by_dataset}
                if own_shots == shots and by_dataset not in zeros and ours:
                    gains = {name: row.mean - zero[name].mean for name, row in ours.items()}
                    lines.append(Gain(by_dataset.get(""), ours, gains))
            if lines:
                self.groups.append(Group(zeros[0].get(""), list(zero), lines))

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        by_protocol: dict[Protocol, list[Table]] = {}
        for group in self.groups:
            protocol = protocol_of(group.zero)
            problems = [] if protocol in by_protocol else self.problems.get(protocol, [])
            by_protocol.setdefault(protocol, []).append(_table(group, problems))
        return by_protocol

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers, one for each method and data set."""
        return [record for group in self.groups for record in _records(group)]


def _table(group: Group, problems: list[str]) -> Table:
    zero, protocol = group.zero, protocol_of(group.zero)
    first = next(iter(group.lines[0].rows.values()))
    title = [averages_title(zero, len(group.datasets), ""), shots_text(first.shots)]
    if len(protocol.columns) > 1:
        title.append(protocol.columns[zero.column])
    head = ["Method", "Average", "Gain", "Worst gain", "on"]
    head += [dataset_title(name) for name in group.datasets]
    lines = [[Cell(zero.name), _average(zero), *[Cell("-")] * (len(head) - 2)]]
    marks = set()
    for line in group.lines:
        row, on_all = next(iter(line.rows.values())), len(line.gains) == len(group.datasets)
        complete = line.average is not None and line.average.complete and zero.complete
        gain = line.average.mean - zero.mean if complete else None
        marks.update(row.beyond)
        lines.append([
            Cell(with_marks(row.name, row.beyond)),
            _average(line.average),
            _points(gain),
            _points(line.gains[line.worst], on_all),
            Cell(dataset_title(line.worst)),
            *(_points(line.gains.get(name)) for name in group.datasets),
        ])  # fmt: skip
    caption = [NOTE, *(h_note(protocol) if zero.column == "h" else []), *meaning(marks)]
    return Table(f"{', '.join(title)}: gains over zero-shot CLIP", head, lines, caption, problems)


def _average(row: Any) -> Cell:
    if row is None:
        return Cell("-")
    text = f"{row.mean:.2f}{count_text(row)}"
    return Cell(text, row.mean if row.complete else None)


def _points(gain: float | None, compared: bool = True) -> Cell:
    """Return a cell with a gain."""
    if gain is None:
        return Cell("-")
    return Cell(f"{round(gain, 2) + 0.0:+.2f}", gain if compared else None)


def _records(group: Group) -> Iterator[dict]:
    for line in group.lines:
        for name, row in line.rows.items():
            numbers = {"accuracy": row.mean, "gain": line.gains[name], "worst": name == line.worst}
            yield place_of(row, row.shots, row.column) | {"method": row.name} | numbers
