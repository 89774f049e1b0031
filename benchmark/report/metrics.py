"""Tables of further metrics, and of the accuracy of each class.

Metrics of single tests are read from the records of runs; metrics over base and new classes
together are computed from predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..protocols.base import Protocol, shots_text
from ..records import METRICS, Metric, Outcome
from .both import both_records, both_tables
from .joint import both_halves
from .names import dataset_title
from .published import marked, meaning
from .tables import ONE_SEED, Cell, Table, first_head, metric_cell, spread_note

if TYPE_CHECKING:
    import pandas as pd

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
PER_CLASS = "per_class_accuracy"

# Metrics (in %) of out-of-distribution detection: test images against those of another data set.
OOD = {
    "auroc_mcm": Metric("AUROC MCM"),
    "fpr95_mcm": Metric("FPR95 MCM", more_is_better=False),
    "auroc_gl_mcm": Metric("AUROC GL-MCM"),
    "fpr95_gl_mcm": Metric("FPR95 GL-MCM", more_is_better=False),
}
NO_OOD = "not tested on other data sets; repeat the run with --ood"
OOD_NOTE = (
    "AUROC and FPR95 (%) of telling test images from those of another data set, which stands "
    "before them, by MCM or GL-MCM."
)


@dataclass(frozen=True)
class Test:
    """The runs of several methods on the same test images."""

    first: Any  # the first row
    shots: int
    column: str
    runs: dict[str, dict[int, Outcome]]  # by line name and seed
    beyond: dict[str, list[str]]  # marks by line name

    @property
    def where(self) -> str:
        """The protocol, data set, classes and shots in words."""
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
        """`where` as a file name."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    @property
    def seeds(self) -> int:
        """The largest number of seeds of a method."""
        return max(map(len, self.runs.values()))

    def values(self, method: str, *keys: str) -> list:
        """Return a metric (given by nested keys) of each seed of a method that has it."""
        found = [_at(outcome, *keys) for outcome in self.runs[method].values()]
        return [value for value in found if value is not None]

    def problems(self, key: str, why: str = MISSING) -> list[str]:
        """Return sentences on the methods that lack a metric, with their seeds."""
        found = []
        for method, runs in self.runs.items():
            seeds = [str(seed) for seed, outcome in runs.items() if _at(outcome, key) is None]
            if seeds:
                found.append(f"{method}: {why} [seed {', '.join(seeds)}]")
        return found

    def record(self, method: str) -> dict:
        """Return the place and seeds of a method as plain values."""
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
    """Return all tests that the rows contain, in their order."""
    measured = rows[~rows["average"] & (rows["column"] != "h")]
    measured = measured[[bool(row.runs[row.column]) for row in measured.itertuples()]]
    # zero-shot runs appear with every number of shots
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
        beyond = {row.line_name: row.beyond for row in lines}
        found.append(Test(lines[0], number, column, runs, beyond))
    return found


class _OfTests:
    """Base of views that have tables for each test, and records with the same numbers.

    Args:
        rows: a data frame as `rows` makes it, of any protocols.
    """

    picture: str  # the kind of plot, a key of `pictures.PICTURES`
    _tables: Callable[[Test], list[Table]]

    def __init__(self, rows: pd.DataFrame):
        self.tests = tests(rows)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            found.setdefault(test.first.protocol, []).extend(self._tables(test))
        return found


class Metrics(_OfTests):
    """Tables with a line for each method and a column for each metric.

    Tables over base and new classes (accuracies, costs) come first, then those of each test, with
    the out-of-distribution detection of its runs.
    """

    picture = "reliability"

    def __init__(self, rows: pd.DataFrame):
        """Compute the metrics over base and new classes."""
        super().__init__(rows)
        self.both = both_halves(rows)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        first = both_tables(self.both)
        found = super().tables()
        return {protocol: first.get(protocol, []) + tables for protocol, tables in found.items()}

    def _tables(self, test: Test) -> list[Table]:
        of_results = {
            metric.head: ((key,), metric)
            for key, metric in METRICS.items()
            if metric.everywhere or any(test.values(method, key) for method in test.runs)
        }
        notes = "; ".join(metric.note for _, metric in of_results.values() if metric.note)
        problems = test.problems("calibration_error")
        found = [_of_test(test, "metrics", of_results, f"{notes}.", problems)]
        if of_sets := {
            f"{dataset_title(name)}: {metric.head}": (("ood", name, key), metric)
            for name in ood_sets(test)
            for key, metric in OOD.items()
            if any(test.values(method, "ood", name, key) for method in test.runs)
        }:
            what = "out-of-distribution detection"
            found.append(_of_test(test, what, of_sets, OOD_NOTE, test.problems("ood", NO_OOD)))
        return found

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers."""
        return both_records(self.both) + [
            test.record(method)
            | {key: _mean(test.values(method, key)) for key in METRICS}
            | {
                f"ood_{name}_{key}": _mean(test.values(method, "ood", name, key))
                for name in ood_sets(test)
                for key in OOD
            }
            for test in self.tests
            for method in test.runs
        ]


def ood_sets(test: Test) -> list[str]:
    """Return the out-of-distribution data sets of a test's runs."""
    found = [_at(outcome, "ood") or {} for runs in test.runs.values() for outcome in runs.values()]
    return list(dict.fromkeys(name for sets in found for name in sets))


def _of_test(
    test: Test,
    what: str,
    columns: Mapping[str, tuple[tuple[str, ...], Metric]],
    note: str,
    problems: list[str],
) -> Table:
    """Return a table of some metrics of a test.

    Args:
        test: the test.
        what: the kind of table, for its title.
        columns: by column head, the nested keys of a metric in records, and the metric.
        note: a sentence for the caption.
        problems: sentences on what is missing.
    """
    lines = [
        [
            Cell(marked(method, test.beyond[method])),
            *(metric_cell(test.values(method, *keys), metric) for keys, metric in columns.values()),
        ]
        for method in test.runs
    ]
    head = [first_head(test.first.protocol), *columns]
    caption = [spread_note(test.seeds), note, *meaning(chain(*test.beyond.values()))]
    return Table(f"{test.where}: {what}", head, lines, caption, problems)


class Classes(_OfTests):
    """A table for each test, with a line for each class and a column for each method's accuracy."""

    picture = "confusion"

    def _tables(self, test: Test) -> list[Table]:
        found = [_accuracies(test, method) for method in test.runs]
        lines = []
        for name in dict.fromkeys(name for accuracies in found for name in accuracies):
            means = [accuracies.get(name) for accuracies in found]
            cells = [Cell("-") if value is None else Cell(f"{value:.2f}", value) for value in means]
            lines.append([Cell(name), *cells])
        title = f"{test.where}: accuracy (%) of each class"
        caption = ["Mean over the seeds." if test.seeds > 1 else ONE_SEED]
        return [Table(title, ["Class", *test.runs], lines, caption, test.problems(PER_CLASS))]

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            test.record(method) | {"class": name, "accuracy": accuracy}
            for test in self.tests
            for method in test.runs
            for name, accuracy in _accuracies(test, method).items()
        ]


def _accuracies(test: Test, method: str) -> dict[str, float]:
    """Return the accuracy of each class with test images, as a mean over the seeds."""
    import pandas as pd  # slow to load

    of_seeds = pd.DataFrame(test.values(method, PER_CLASS), dtype=object)
    return {name: mean(found) for name, column in of_seeds.items() if len(found := column.dropna())}


def _at(outcome: Outcome, *keys: str) -> Any:
    """Return the value under nested keys in the record of a run; None if absent."""
    found: Any = outcome.result
    for key in keys:
        found = (found or {}).get(key)
    return found


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None
