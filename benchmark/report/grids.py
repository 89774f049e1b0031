"""Cut tables and records of several methods in one place from a summary.

They have a line for each method, and a column for each metric.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..protocols.base import Protocol, shots_text
from ..records import COSTS, Metric, Outcome
from .frame import each_row
from .names import dataset_title
from .per_image import BOTH
from .published import meaning, with_marks
from .summary import count_text, sets_to_average
from .tables import Cell, Table, average_name, number_or_none, protocol_of, table_name

RELATIVE_TO = "CoOp"  # costs are multiples of this method's
TIMES = "_x_coop"
RELATIVE = {key: cost.head for key, cost in COSTS.items() if cost.multiples}


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


@dataclass
class Test(Grid):
    """The means of several methods on the same test images, with their runs."""

    runs: pd.DataFrame = field(default_factory=pd.DataFrame)  # rows of the frame

    @property
    def name(self) -> str:
        """The place as a file name."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    def outcomes(self, method: str) -> dict[int, Outcome]:
        """Return the outcomes of a method, by seed."""
        members = self.runs[self.runs["name"] == method]
        return dict(zip(members["seed"], members["outcome"], strict=True))

    def without(self, numbers: pd.DataFrame, why: str) -> list[str]:
        """Return a sentence for each method with seeds that `numbers` lacks."""
        pairs = set(zip(numbers["name"], numbers["seed"], strict=True))
        return [
            f"{row.name}: {why} [seed {', '.join(map(str, lack))}]"
            for row in each_row(self.lines)
            if (lack := [seed for seed in row.seeds if (row.name, seed) not in pairs])
        ]


def tests(tidy: pd.DataFrame, numbers: pd.DataFrame) -> list[Test]:
    """Return all tests that have finished runs, in the order of the summary."""
    finished = numbers["column"].isin(set(tidy["column"])) & (numbers["count"] > 0)
    finished = numbers[finished & ~numbers["average"]]
    # zero-shot runs appear with every number of shots
    trained = numbers[numbers["shots"] > 0].groupby("table")["shots"].agg(set)
    shots = [
        [shots] if shots else sorted(trained.get(table, {0}))
        for shots, table in zip(finished["shots"], finished["table"], strict=True)
    ]
    finished = finished.assign(of_shots=shots, note="").explode("of_shots")
    runs = tidy[tidy["value"].notna()].sort_values(["line", "seed"], kind="stable")
    by_place = dict([*runs.groupby(["table", "dataset", "column"])])
    same = ["table", "dataset", "column", "of_shots"]
    by_test = finished.groupby(same, sort=False)
    return [_test(members, by_place[tuple(place)]) for (*place, _), members in by_test]


def _test(numbers: pd.DataFrame, runs: pd.DataFrame) -> Test:
    """Return the test of these numbers; `of_shots` is its number of shots."""
    row, protocol = next(each_row(numbers)), protocol_of(numbers)
    what = [protocol.title, dataset_title(row.dataset)]
    if row.source not in ("", row.dataset):
        what[1] += f" from {dataset_title(row.source)}"
    if len(protocol.columns) > 1:
        what.append(protocol.columns[row.column].lower())
    where = ", ".join([*what, shots_text(row.of_shots)])
    runs = runs[runs["line"].isin(numbers["line"])]
    seeds = runs.groupby("name")["seed"].agg(lambda column: list(dict.fromkeys(column)))
    lines = numbers.drop_duplicates("name")
    lines = lines.assign(seeds=lines["name"].map(seeds), problems=[[] for _ in range(len(lines))])
    place = place_of(row, row.of_shots, row.column)
    return Test(where, place, lines, numbers, runs=runs)


def both_halves(numbers: pd.DataFrame) -> Iterator[Grid]:
    """Yield accuracies, joint metrics and costs on each data set, then averages over data sets.

    Accuracies have the column as their metric.
    """
    accuracy = (numbers["metric"] == "accuracy") & numbers["column"].isin(("base", "new", "h"))
    numbers = numbers[accuracy | (numbers["column"] == BOTH)]
    notes = [count_text(row) for row in each_row(numbers)]
    numbers = numbers.assign(
        metric=numbers["metric"].mask(accuracy, numbers["column"]),
        note=pd.Series(notes, numbers.index).where(accuracy | numbers["average"], ""),
    )
    halves = numbers[numbers["metric"].isin(("base", "new")) & ~numbers["average"]]
    done = halves[halves["count"] > 0]
    problems = numbers[numbers["column"] == BOTH].groupby("line")["problems"].sum().to_dict()
    lines = numbers[(numbers["metric"] == "h") & numbers["line"].isin(done["line"])]
    unit = lines[lines["name"] == RELATIVE_TO].drop_duplicates("table").set_index("table")
    for key in RELATIVE:
        theirs, ours = (members[key].astype(float) for members in (unit, lines))
        lines = lines.assign(**{key + TIMES: ours / lines["table"].map(theirs[theirs > 0])})
    lines = lines.assign(problems=[problems.get(line, []) for line in lines["line"]])
    costs = [*COSTS, *(key + TIMES for key in RELATIVE)]
    for _, members in lines.groupby("table", sort=False):
        row = next(each_row(members))
        own = numbers[numbers["line"].isin(members["line"])]
        yield Grid(table_name(row), place_of(row, row.shots, BOTH), members, own, more=costs)
    averages = numbers[numbers["average"]]
    for group in sets_to_average(numbers):
        own = averages[averages["group"] == group]
        names = lines[(lines["group"] == group) & (lines["dataset"] != lines["source"])]["name"]
        members = own[own["metric"] == "h"].set_index("name", drop=False).loc[names.unique()]
        if members.empty:
            continue
        none: list[list] = [[] for _ in members.index]
        members = members.assign(datasets=members["count"], problems=none)
        row = next(each_row(members))
        where = f"{protocol_of(row).title}, {average_name(row)}"
        place = place_of(row, row.shots, BOTH)
        yield Grid(where, place, members, own, ("problems", "datasets", "of"))
