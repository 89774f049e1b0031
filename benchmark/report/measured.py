"""Numbers of several methods in one place, and the tables and records that they make."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ..protocols.base import Protocol
from ..records import Metric, Outcome
from .frame import each_row
from .names import by_artist
from .published import meaning, with_marks
from .rows import averaged_over, with_h
from .tables import Cell, Table, number_or_none, protocol_of


class Measured(NamedTuple):
    """Numbers of several methods on the same test images, or averages over data sets.

    `numbers` has rows with the `name` of a method, `metric`, `value`, and a `note` that follows a
    value which is not compared with others, else "".
    """

    where: str  # the place in words
    place: dict  # the same as plain values, by the keys of records
    protocol: Protocol
    lines: pd.DataFrame  # a row of each method
    numbers: pd.DataFrame
    own: Sequence[str] = ("seeds", "problems")  # columns of lines before the numbers of a record
    more: Sequence[str] = ()  # and after them

    def table(
        self,
        what: str,
        metrics: Mapping[str, Metric],
        caption: Sequence[str],
        problems: Sequence[str] = (),
    ) -> Table:
        """Return a table with a line for each method and a column for each of these metrics.

        `what` is the title after the place. A sentence on marks is added to the caption.
        """
        means = self._means()
        cells = {
            (name, key): _cell(
                means[name, key], members["value"], metrics[key], members["note"].iloc[0]
            )
            for (name, key), members in self.numbers.groupby(["name", "metric"])
            if key in metrics and (name, key) in means
        }
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
        means = self._means()
        for row in each_row(self.lines):
            own = {"method": row.name} | {name: getattr(row, name) for name in self.own}
            numbers = {key: means.get((row.name, key)) for key in metrics}
            yield (
                self.place
                | own
                | numbers
                | {name: number_or_none(getattr(row, name)) for name in self.more}
            )

    def _means(self) -> dict[tuple[str, str], float]:
        """Return the means by method and metric; H is that of the means."""
        means = self.numbers.groupby(["name", "metric"])["value"].mean().unstack("metric")
        return with_h(means).stack().dropna().to_dict()

    # ------------------------------------------------- of numbers that are rows of the frame

    @property
    def name(self) -> str:
        """The place as a file name."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    def runs(self, method: str) -> dict[int, Outcome]:
        """Return the outcomes of a method, by seed."""
        members = self.numbers[self.numbers["name"] == method]
        return dict(zip(members["seed"], members["outcome"], strict=True))

    def without(self, numbers: pd.DataFrame, why: str) -> list[str]:
        """Return a sentence for each method with seeds that `numbers` lacks."""
        pairs = set(zip(numbers["name"], numbers["seed"], strict=True))
        return [
            f"{row.name}: {why} [seed {', '.join(map(str, lack))}]"
            for row in each_row(self.lines)
            if (lack := [seed for seed in row.seeds if (row.name, seed) not in pairs])
        ]


def _cell(mean: float, values: pd.Series, metric: Metric, note: str) -> Cell:
    """Return a cell with `mean ± standard deviation`, whose `value` is larger if better."""
    spread = f" ± {values.std():.2f}" if values.count() > 1 else ""
    better = mean if metric.more_is_better else -mean
    competes = not note and metric.more_is_better is not None
    return Cell(f"{mean:.2f}{spread}{note}", better if competes else None)


def place_of(row: Any, shots: int, column: str) -> dict:
    """Return the place of a row as plain values."""
    place = {name: getattr(row, name) for name in ("protocol", "source", "dataset")}
    return place | {"shots": shots, "column": column}


def rows_to_average(rows: pd.DataFrame) -> dict[int, dict[str, set[str]]]:
    """Return the data sets of averages by group: all with the key "", then those of each artist."""
    by_group = {}
    for group, members in averaged_over(rows).groupby("group", sort=False):
        datasets = set(members["dataset"])
        # in transfer tables, the average is a column
        artists = by_artist(datasets) if protocol_of(members).across != "dataset" else {}
        groups = {"": datasets} | artists
        by_group[group] = {artist: names for artist, names in groups.items() if len(names) > 1}
    return by_group


def averages_title(row: Any, count: int, artist: str) -> str:
    """Return the protocol of an average and its data sets in words."""
    kind = f"{artist or 'embedded'} " if row.embedded else ""
    return f"{protocol_of(row).title}, average over {count} {kind}data sets"
