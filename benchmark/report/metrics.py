"""Metrics besides the accuracy, and the accuracy of each class, as the runs' results have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..protocols.base import Protocol, shots_text
from .names import dataset_title
from .results import METRICS, Metric, Outcome
from .tables import ONE_SEED, Cell, Table, first_head, spread_note

if TYPE_CHECKING:
    import pandas as pd

MISSING = "results without these metrics, repeat with TEST.PREDICTIONS True"
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

    @property
    def seeds(self) -> int:
        """The most that a method was run with."""
        return max(map(len, self.runs.values()))

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

    def record(self, method: str) -> dict:
        """The place and the runs of a method, for machines."""
        return {
            "protocol": self.first.protocol.name,
            "source": self.first.source,
            "dataset": self.first.dataset,
            "shots": self.shots,
            "column": self.column,
            "method": method,
            "seeds": list(self.runs[method]),
            "problems": [],
        }


def tests(rows: pd.DataFrame) -> list[Test]:
    """All tests that the rows hold, in their order."""
    measured = rows[~rows["average"] & (rows["column"] != "h")]
    measured = measured[[bool(row.runs[row.column]) for row in measured.itertuples()]]
    # zero-shot runs are compared with every number of shots
    trained = rows[~rows["average"] & (rows["shots"] > 0)].groupby("table")["shots"].agg(set)
    shots = [
        [row.shots] if row.shots else sorted(trained.get(row.table, {0}))
        for row in measured.itertuples()
    ]
    measured = measured.assign(of_shots=shots).explode("of_shots")
    same = ["table", "dataset", "of_shots", "column"]
    found = []
    for (*_, number, column), members in measured.groupby(same, sort=False):
        lines = list(members.itertuples())
        runs = {row.line_name: row.runs[column] for row in lines}
        found.append(Test(lines[0], number, column, runs))
    return found


class _OfTests:
    """A table for each test, and what the tables say with plain numbers, for machines.

    Args:
        rows: of any protocols.
    """

    picture: str  # that of its predictions
    _table: Callable[[Test], Table]

    def __init__(self, rows: pd.DataFrame):
        self.tests = tests(rows)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Those of each protocol."""
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            found.setdefault(test.first.protocol, []).append(self._table(test))
        return found


class Metrics(_OfTests):
    """A table for each test: a line for each method, a column for each metric."""

    picture = "reliability"

    def _table(self, test: Test) -> Table:
        head = [first_head(test.first.protocol), *(metric.head for metric in METRICS.values())]
        lines = [
            [Cell(method), *(_cell(test.values(method, key), METRICS[key]) for key in METRICS)]
            for method in test.runs
        ]
        problems = test.problems("calibration_error")
        notes = "; ".join(metric.note for metric in METRICS.values() if metric.note)
        caption = [spread_note(test.seeds), f"{notes}."]
        return Table(f"{test.where}: metrics", head, lines, caption, problems)

    def records(self) -> list[dict]:
        """Each line of the tables."""
        return [
            test.record(method)
            | {key: mean(found) if (found := test.values(method, key)) else None for key in METRICS}
            for test in self.tests
            for method in test.runs
        ]


class Classes(_OfTests):
    """A table for each test: a line for each class, its accuracy with each method."""

    picture = "confusion"

    def _table(self, test: Test) -> Table:
        found = [_accuracies(test, method) for method in test.runs]
        lines = []
        for name in dict.fromkeys(name for accuracies in found for name in accuracies):
            means = [accuracies.get(name) for accuracies in found]
            cells = [Cell("-") if value is None else Cell(f"{value:.2f}", value) for value in means]
            lines.append([Cell(name), *cells])
        title = f"{test.where}: accuracy (%) of each class"
        caption = ["Mean over the seeds." if test.seeds > 1 else ONE_SEED]
        return Table(title, ["Class", *test.runs], lines, caption, test.problems(PER_CLASS))

    def records(self) -> list[dict]:
        """Each cell of the tables."""
        return [
            test.record(method) | {"class": name, "accuracy": accuracy}
            for test in self.tests
            for method in test.runs
            for name, accuracy in _accuracies(test, method).items()
        ]


def _accuracies(test: Test, method: str) -> dict[str, float]:
    """The mean over the seeds of each class that has test images."""
    import pandas as pd  # slow to load

    of_seeds = pd.DataFrame(test.values(method, PER_CLASS), dtype=object)
    return {name: mean(found) for name, column in of_seeds.items() if len(found := column.dropna())}


def _cell(values: list[float], metric: Metric) -> Cell:
    """`mean ± standard deviation`; the best of a column has the greatest `value`."""
    if not values:
        return Cell("-")
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    better = mean(values) if metric.more_is_better else -mean(values)
    return Cell(f"{mean(values):.2f}{spread}", better)
