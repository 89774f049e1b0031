"""Metrics besides the accuracy, and the accuracy of each class, as the runs' results have them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from ..protocols.base import Protocol, shots_text
from .names import dataset_title
from .results import Outcome
from .tables import ONE_SEED, Cell, Table, first_head, spread_note

if TYPE_CHECKING:
    import pandas as pd

MISSING = "results without these metrics, repeat with TEST.PREDICTIONS True"
BINS = "ECE is the expected calibration error, in 15 bins; NLL the mean of -ln p of the true class."


class Metric(NamedTuple):
    """A number in results.json: its head in a table, and whether more of it is better."""

    head: str
    more_is_better: bool = True


METRICS = {
    "accuracy": Metric("Accuracy (%)"),
    "macro_f1": Metric("Macro-F1 (%)"),
    "top5_accuracy": Metric("Top-5 (%)"),
    "calibration_error": Metric("ECE (%)", False),
    "negative_log_likelihood": Metric("NLL", False),
}
PER_CLASS = "per_class_accuracy"


@dataclass(frozen=True)
class Test:
    """What several methods did on the same test images: the names of lines, and their runs."""

    first: Any
    shots: int
    column: str
    runs: dict[str, dict[int, Outcome]]

    @property
    def where(self) -> str:
        """The protocol, the data set, the classes and the shots, in words."""
        row, protocol = self.first, self.first.protocol
        what = [protocol.title, dataset_title(row.dataset)]
        if row.source not in ("", row.dataset):
            what[1] += f" from {dataset_title(row.source)}"
        if len(protocol.columns) > 1:
            what.append(protocol.columns[self.column].lower())
        if row.settings:
            what.append(" and ".join(row.settings))
        return ", ".join([*what, shots_text(self.shots)])

    @property
    def name(self) -> str:
        """The same as a name of files."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    def values(self, method: str, key: str) -> list:
        """A metric of each seed of a method that has it."""
        found = [(outcome.result or {}).get(key) for outcome in self.runs[method].values()]
        return [value for value in found if value is not None]

    def problems(self, key: str) -> list[str]:
        """The methods that lack a metric, with the seeds."""
        found = []
        for method, runs in self.runs.items():
            seeds = [str(seed) for seed, o in runs.items() if (o.result or {}).get(key) is None]
            if seeds:
                found.append(f"{method}: {MISSING} [seed {', '.join(seeds)}]")
        return found


def tests(rows: pd.DataFrame) -> list[Test]:
    """All tests that the rows hold, in their order."""
    measured = rows[~rows["average"] & (rows["column"] != "h")]
    trained = measured[measured["shots"] > 0].groupby("table")["shots"].agg(set).to_dict()
    groups = defaultdict(list)
    for row in measured.itertuples():
        # what has no shots stands beside any number of them
        numbers = {row.shots} if row.shots else trained.get(row.table, {0})
        if row.runs[row.column]:
            for shots in sorted(numbers):
                groups[row.table, row.dataset, shots, row.column].append(row)
    found = []
    for (*_, shots, column), members in groups.items():
        by_method = {row.line_name: row.runs[column] for row in members}
        found.append(Test(members[0], shots, column, by_method))
    return found


class _OfTests(ABC):
    """Something about each test: a table, and the same as records.

    Args:
        rows: of any protocols.
    """

    def __init__(self, rows: pd.DataFrame):
        self.tests = tests(rows)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Those of each protocol."""
        groups = defaultdict(list)
        for test in self.tests:
            groups[test.first.protocol].append(self._table(test))
        return dict(groups)

    @abstractmethod
    def _table(self, test: Test) -> Table:
        """The table of a test."""

    @abstractmethod
    def records(self) -> list[dict]:
        """What the tables say with plain numbers, for machines."""


class Metrics(_OfTests):
    """A table for each test: a line for each method, a column for each metric."""

    def _table(self, test: Test) -> Table:
        head = [first_head(test.first.protocol), *(metric.head for metric in METRICS.values())]
        lines = [
            [Cell(method), *(_cell(test.values(method, key), METRICS[key]) for key in METRICS)]
            for method in test.runs
        ]
        caption = [spread_note(max(map(len, test.runs.values()))), BINS]
        problems = test.problems("calibration_error")
        return Table(f"{test.where}: metrics", head, lines, caption, problems)

    def records(self) -> list[dict]:
        """Each line of the tables."""
        return [
            _record(test, method)
            | {key: mean(found) if (found := test.values(method, key)) else None for key in METRICS}
            for test in self.tests
            for method in test.runs
        ]


class Classes(_OfTests):
    """A table for each test: a line for each class, its accuracy with each method."""

    def _table(self, test: Test) -> Table:
        found = {method: self._accuracies(test, method) for method in test.runs}
        names = dict.fromkeys(name for accuracies in found.values() for name in accuracies)
        lines = []
        for name in names:
            means = [accuracies.get(name) for accuracies in found.values()]
            cells = [Cell("-") if value is None else Cell(f"{value:.2f}", value) for value in means]
            lines.append([Cell(name), *cells])
        title = f"{test.where}: accuracy (%) of each class"
        several = max(map(len, test.runs.values())) > 1
        caption = ["Mean over the seeds." if several else ONE_SEED]
        return Table(title, ["Class", *found], lines, caption, test.problems(PER_CLASS))

    @staticmethod
    def _accuracies(test: Test, method: str) -> dict[str, float]:
        """The mean over the seeds of each class that has test images."""
        found = defaultdict(list)
        for accuracies in test.values(method, PER_CLASS):
            for name, accuracy in accuracies.items():
                if accuracy is not None:
                    found[name].append(accuracy)
        return {name: mean(values) for name, values in found.items()}

    def records(self) -> list[dict]:
        """Each cell of the tables."""
        return [
            _record(test, method) | {"class": name, "accuracy": accuracy}
            for test in self.tests
            for method in test.runs
            for name, accuracy in self._accuracies(test, method).items()
        ]


def _cell(values: list[float], metric: Metric) -> Cell:
    """`mean ± standard deviation`; the best of a column has the greatest `value`."""
    if not values:
        return Cell("-")
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    better = mean(values) if metric.more_is_better else -mean(values)
    return Cell(f"{mean(values):.2f}{spread}", better)


def _record(test: Test, method: str) -> dict:
    row = test.first
    return {
        "protocol": row.protocol.name,
        "source": row.source,
        "dataset": row.dataset,
        "shots": test.shots,
        "column": test.column,
        "method": method,
        "seeds": list(test.runs[method]),
        "problems": [],
    }
