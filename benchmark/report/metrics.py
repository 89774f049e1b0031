"""Tables of further metrics, and of the accuracy of each class.

Metrics of single tests are read from the records of runs; metrics over base and new classes
together are computed from predictions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol, shots_text
from ..records import METRICS, OOD, Metric, Outcome, at_bound
from .answers import arrays_of
from .both import Both, mean_of
from .names import dataset_title
from .published import marked, meaning
from .tables import (
    ONE_SEED,
    Cell,
    Table,
    first_head,
    metric_cell,
    protocol_of,
    seeds_text,
    spread_note,
)

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
AT_BOUND = "the temperature is at its bound, so that ECE scaled could be less"
PER_CLASS = "per_class_accuracy"

NO_OOD = "not tested on other data sets; repeat the run with --ood"
OOD_NOTE = (
    "AUROC and FPR95 (%) of telling test images from those of another data set, which stands "
    "before them, by MCM or GL-MCM."
)


@dataclass(frozen=True)
class Test:
    """The runs of several methods on the same test images."""

    first: Any  # a row of the first run
    shots: int
    column: str
    runs: dict[str, dict[int, Outcome]]  # by the name of the line and seed
    beyond: dict[str, list[str]]  # marks by the name of the line

    @property
    def where(self) -> str:
        """The protocol, data set, classes and shots in words."""
        row, protocol = self.first, protocol_of(self.first)
        what = [protocol.title, dataset_title(row.dataset)]
        if row.source not in ("", row.dataset):
            what[1] += f" from {dataset_title(row.source)}"
        if len(protocol.columns) > 1:
            what.append(protocol.columns[self.column].lower())
        return ", ".join([*what, *filter(None, [row.tried]), shots_text(self.shots)])

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
        place = {name: getattr(self.first, name) for name in ("protocol", "source", "dataset")}
        place |= {"shots": self.shots, "column": self.column, "method": method}
        return place | {"seeds": list(self.runs[method]), "problems": []}


def tests(tidy: pd.DataFrame) -> list[Test]:
    """Return all tests that the runs contain, in their order."""
    measured = tidy[(tidy["metric"] == "accuracy") & (tidy["column"] != "h")]
    # zero-shot runs appear with every number of shots
    trained = measured[measured["shots"] > 0].groupby("table")["shots"].agg(set)
    measured = measured[measured["value"].notna()]
    shots = [
        [row.shots] if row.shots else sorted(trained.get(row.table, {0}))
        for row in measured.itertuples()
    ]
    measured = measured.assign(of_shots=shots).explode("of_shots")
    columns = {column: i for i, column in enumerate(dict.fromkeys(measured["column"]))}
    measured = measured.assign(place=measured["column"].map(columns)).sort_values(
        ["line", "place", "seed"], kind="stable"
    )
    same = ["table", "dataset", "of_shots", "column"]
    found = []
    for (*_, number, column), members in measured.groupby(same, sort=False):
        first = next(members.itertuples())
        runs: dict[str, dict[int, Outcome]] = {}
        for row in members.itertuples():
            runs.setdefault(row.name, {})[row.seed] = row.outcome
        beyond = dict(zip(members["name"], members["beyond"], strict=True))
        found.append(Test(first, number, column, runs, beyond))
    return found


class _OfTests:
    """Base of views that have tables for each test, and records with the same numbers.

    Args:
        tidy: a data frame as `frame` makes it, of any protocols.
    """

    picture: str  # the kind of plot, a key of `pictures.PICTURES`
    _tables: Callable[[Test], list[Table]]

    def __init__(self, tidy: pd.DataFrame):
        self.tests = tests(tidy)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            found.setdefault(protocol_of(test.first), []).extend(self._tables(test))
        return found


class Metrics(_OfTests):
    """Tables with a line for each method and a column for each metric.

    Tables over base and new classes (accuracies, costs) come first, then those of each test, with
    the out-of-distribution detection of its runs.
    """

    picture = "reliability"

    def __init__(self, tidy: pd.DataFrame):
        """Compute the metrics over base and new classes."""
        super().__init__(tidy)
        self.both = Both(tidy)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        first = self.both.tables()
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
        for method, runs in test.runs.items():
            limit = [seed for seed, of in runs.items() if at_bound(_at(of, "temperature"))]
            problems += [f"{method}: {AT_BOUND} [{seeds_text(limit)}]"] if limit else []
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
        return self.both.records() + [
            test.record(method)
            | {key: mean_of(test.values(method, key)) for key in METRICS}
            | {
                f"ood_{name}_{key}": mean_of(test.values(method, "ood", name, key))
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
    head = [first_head(protocol_of(test.first)), *columns]
    caption = [spread_note(test.seeds), note, *meaning(chain(*test.beyond.values()))]
    return Table(f"{test.where}: {what}", head, lines, caption, problems)


class Classes(_OfTests):
    """A table for each test, with a line for each class and a column for each method's accuracy."""

    picture = "confusion"

    def _tables(self, test: Test) -> list[Table]:
        found = [_accuracies(test, method) for method in test.runs]
        images = _images(test)
        lines = []
        for name in dict.fromkeys(name for accuracies in found for name in accuracies):
            means = [accuracies.get(name) for accuracies in found]
            cells = [Cell("-") if value is None else Cell(f"{value:.2f}", value) for value in means]
            lines.append([Cell(name), *([Cell(str(images[name]))] if images else []), *cells])
        title = f"{test.where}: accuracy (%) of each class"
        caption = ["Mean over the seeds." if test.seeds > 1 else ONE_SEED]
        head = ["Class", *(["n"] if images else []), *test.runs]
        caption += [N_NOTE] if images else []
        return [Table(title, head, lines, caption, test.problems(PER_CLASS))]

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            test.record(method) | {"class": name, "accuracy": accuracy, "images": images.get(name)}
            for test in self.tests
            for images in [_images(test)]
            for method in test.runs
            for name, accuracy in _accuracies(test, method).items()
        ]


N_NOTE = "n: test images of the class."


def images_of_classes(outcome: Outcome) -> dict[str, int]:
    """Return the number of test images of each class; empty without predictions or class names."""
    names = list(_at(outcome, PER_CLASS) or {})
    try:
        label = arrays_of(outcome)["label"]
    except UserError:
        return {}
    if label.max() >= len(names):
        return {}
    return dict(zip(names, np.bincount(label, minlength=len(names)).tolist(), strict=True))


def _images(test: Test) -> dict[str, int]:
    runs = (outcome for of in test.runs.values() for outcome in of.values())
    return next(filter(None, map(images_of_classes, runs)), {})


def _accuracies(test: Test, method: str) -> dict[str, float]:
    """Return the accuracy of each class with test images, as a mean over the seeds."""
    of_seeds = pd.DataFrame(test.values(method, PER_CLASS), dtype=object)
    return {name: mean(found) for name, column in of_seeds.items() if len(found := column.dropna())}


def _at(outcome: Outcome, *keys: str) -> Any:
    """Return the value under nested keys in the record of a run; None if absent."""
    found: Any = outcome.result
    for key in keys:
        found = (found or {}).get(key)
    return found
