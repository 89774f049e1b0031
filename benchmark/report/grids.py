"""Tables and records of several methods in one place: a line for each, a column for each metric."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..protocols.base import Protocol
from ..records import Metric
from .frame import each_row
from .published import meaning, with_marks
from .tables import Cell, Table, number_or_none, protocol_of


@dataclass
class Grid:
    """Means of several methods on the same test images, or over data sets.

    `numbers` has rows with the `name` of a method, `metric`, `mean`, `std` (NaN for none), and a
    `note` that follows a mean which is not compared with others, else "".
    """

    where: str  # the place in words
    place: dict  # the same as plain values, by the keys of records
    lines: pd.DataFrame  # a row of each method
    numbers: pd.DataFrame
    own: Sequence[str] = ("seeds", "problems")  # columns of lines before the numbers of a record
    more: Sequence[str] = ()  # and after them

    @property
    def protocol(self) -> Protocol:
        """The protocol of all lines."""
        return protocol_of(self.lines)

    def table(
        self,
        what: str,
        metrics: Mapping[str, Metric],
        caption: Sequence[str],
        problems: Sequence[str] = (),
    ) -> Table:
        """Return a table of these metrics; `what` is the title after the place.

        A sentence on marks is added to the caption.
        """
        shown = self.numbers[self.numbers["metric"].isin(metrics) & self.numbers["mean"].notna()]
        cells = {(row.name, row.metric): _cell(row, metrics[row.metric]) for row in each_row(shown)}
        lines = [
            [Cell(with_marks(row.name, row.beyond))]
            + [cells.get((row.name, key), Cell("-")) for key in metrics]
            for row in each_row(self.lines)
        ]
        head = ["Method", *(metric.head for metric in metrics.values())]
        caption = [*caption, *meaning(self.lines["beyond"].explode().dropna())]
        return Table(f"{self.where}{what}", head, lines, caption, list(problems))

    def records(self, metrics: Iterable[str]) -> Iterator[dict]:
        """Yield the place, method and means of these metrics of each line as plain values."""
        means = self.numbers.set_index(["name", "metric"])["mean"].dropna().to_dict()
        for row in each_row(self.lines):
            own = {"method": row.name} | {name: getattr(row, name) for name in self.own}
            numbers = {key: means.get((row.name, key)) for key in metrics}
            more = {name: number_or_none(getattr(row, name)) for name in self.more}
            yield self.place | own | numbers | more


def _cell(row: Any, metric: Metric) -> Cell:
    """Return a cell with `mean ± standard deviation`, whose `value` is larger if better."""
    spread = f" ± {row.std:.2f}" if row.std == row.std else ""
    better = row.mean if metric.more_is_better else -row.mean
    competes = not row.note and metric.more_is_better is not None
    return Cell(f"{row.mean:.2f}{spread}{row.note}", better if competes else None)


def place_of(row: Any, shots: int, column: str) -> dict:
    """Return the place of a row as plain values."""
    place = {name: getattr(row, name) for name in ("protocol", "source", "dataset")}
    return place | {"shots": shots, "column": column}
