"""Gains over zero-shot CLIP on each data set: their mean, and the worst one."""

from collections import defaultdict
from itertools import chain
from typing import Any

import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol, shots_text
from .frame import each_row
from .grids import place_of
from .names import ZERO_SHOT, dataset_title
from .published import AVERAGE, meaning, with_marks
from .summary import count_text
from .tables import Cell, Table, average_name, h_note, protocol_of

NOTE = (
    "Means over the data sets, and gains over zero-shot CLIP in points: of the mean, the worst one "
    "and that of each data set."
)
WITHOUT = "no finished run of ZeroshotCLIP: add it to --trainers"
ONE_SET = "only one data set: the worst of several is shown"


class Gains:
    """Tables with a line for each method, for the protocol of one setting without validation."""

    heading = "Gains over zero-shot CLIP"
    picture = ""
    tests = ()

    def __init__(self, table_rows: pd.DataFrame):
        cells = table_rows[table_rows["dataset"] != table_rows["source"]]
        cells = cells[cells["mean"].notna()]
        self._tables: dict[Protocol, list[Table]] = defaultdict(list)
        self._records: list[dict] = []
        problems: dict[Protocol, list[str]] = defaultdict(list)
        clips = cells["backbones"].map(sorted).map(" ".join)
        for _, members in cells.groupby(["group", "column", clips], sort=False):
            rows = [*each_row(members.sort_values("rank", kind="stable"))]
            of_zero = [row for row in rows if row.trainer == ZERO_SHOT]
            zero = {row.dataset: row for row in of_zero if row.name == of_zero[0].name}
            protocol, sets = protocol_of(rows[0]), len(zero.keys() - {AVERAGE})
            if sets > 1:
                self._add([row for row in rows if row.trainer != ZERO_SHOT], zero)
            else:
                where = f"{protocol.title}, {protocol.columns[rows[0].column]}"
                problems[protocol].append(f"{where}: {ONE_SET if sets else WITHOUT}")
        if not self._tables:
            why = next(chain(*problems.values()), WITHOUT)
            raise UserError(f"--gains has nothing to show: {why}")
        for protocol, (first, *_) in self._tables.items():
            first.problems = problems[protocol]

    def _add(self, rows: list[Any], zero: dict[str, Any]) -> None:
        """Add the tables of a protocol and column, one for each number of shots."""
        first, sets = next(iter(zero.values())), [name for name in zero if name != AVERAGE]
        protocol, column = protocol_of(first), first.column
        head = ["Method", "Average", "Gain", "Worst gain", "on"]
        head += [dataset_title(name) for name in sets]
        by_line: dict[tuple[int, str], dict[str, Any]] = defaultdict(dict)
        for row in rows:
            by_line[row.shots, row.name][row.dataset] = row
        for shots in sorted({shots for shots, _ in by_line}):
            lines, marks = [], set()
            for (shots_of_line, _), ours in by_line.items():
                gains = {name: ours[name].mean - zero[name].mean for name in zero if name in ours}
                average = gains.pop(AVERAGE, None)
                if shots_of_line != shots or not gains:
                    continue
                if average is not None and not (ours[AVERAGE].complete and zero[AVERAGE].complete):
                    average = None
                worst = min(gains, key=lambda name: round(gains[name], 2))
                row = ours[next(iter(gains))]
                marks.update(row.beyond)
                lines.append([
                    Cell(with_marks(row.name, row.beyond)),
                    _average(ours),
                    _points(average),
                    _points(gains[worst], compared=len(gains) == len(sets)),
                    Cell(dataset_title(worst)),
                    *(_points(gains.get(name)) for name in sets),
                ])  # fmt: skip
                for name, gain in gains.items():
                    numbers = {"accuracy": ours[name].mean, "gain": gain, "worst": name == worst}
                    place = place_of(ours[name], shots, column) | {"method": row.name}
                    self._records.append(place | numbers)
            if lines:
                title = [protocol.title, average_name(first, len(sets)), shots_text(shots)]
                title += [protocol.columns[column]] * (len(protocol.columns) > 1)
                lines.insert(0, [Cell(first.name), _average(zero), *[Cell("-")] * (len(head) - 2)])
                caption = [NOTE, *(h_note(protocol) if column == "h" else []), *meaning(marks)]
                what = f"{', '.join(title)}: gains over zero-shot CLIP"
                self._tables[protocol].append(Table(what, head, lines, caption))

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        return self._tables

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers, one for each method and data set."""
        return self._records


def _average(by_dataset: dict[str, Any]) -> Cell:
    row = by_dataset.get(AVERAGE)
    if row is None:
        return Cell("-")
    text = f"{row.mean:.2f}{count_text(row)}"
    return Cell(text, row.mean if row.complete else None)


def _points(gain: float | None, compared: bool = True) -> Cell:
    """Return a cell with a gain."""
    if gain is None:
        return Cell("-")
    return Cell(f"{round(gain, 2) + 0.0:+.2f}", gain if compared else None)
