"""Tables of further metrics, and of the accuracy of each class.

Metrics of single tests are those of the frame; metrics over base and new classes together are
computed from predictions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol, shots_text
from ..records import METRICS, OOD, PER_CLASS, Metric, Outcome, at_bound
from .answers import arrays_of
from .both import Both, metric_table
from .frame import each_row, ood_name
from .names import dataset_title
from .tables import ONE_SEED, Cell, Table, protocol_of, seeds_text, spread_note

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
AT_BOUND = "the temperature is at its bound, so that ECE scaled could be less"
NO_OOD = "not tested on other data sets; repeat the run with --ood"
OOD_NOTE = (
    "AUROC and FPR95 (%) of telling test images from those of another data set, which stands "
    "before them, by MCM or GL-MCM."
)
N_NOTE = "n: test images of the class."


@dataclass(frozen=True)
class Test:
    """The runs of several methods on the same test images.

    Attributes:
        shots: those of the test; an untrained method, which has none, is in each.
        column: of the protocol.
        rows: of a data frame as `frame` makes it.
    """

    shots: int
    column: str
    rows: pd.DataFrame

    @cached_property
    def first(self) -> Any:
        """The first row."""
        return next(each_row(self.rows))

    @cached_property
    def lines(self) -> pd.DataFrame:
        """A row of each method."""
        return self.rows.drop_duplicates("name")

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

    @cached_property
    def seeds(self) -> int:
        """The largest number of seeds of a method."""
        return self.rows.groupby("name")["seed"].nunique().max()

    def runs(self, method: str) -> dict[int, Outcome]:
        """Return the outcomes of a method, by seed."""
        mine = self.rows[self.rows["name"] == method]
        return dict(zip(mine["seed"], mine["outcome"], strict=True))

    def without(self, found: pd.DataFrame, why: str) -> list[str]:
        """Return a sentence for each method with seeds that `found` lacks."""
        have = set(zip(found["name"], found["seed"], strict=True))
        return [
            f"{name}: {why} [seed {', '.join(map(str, lack))}]"
            for name in self.lines["name"]
            if (lack := [seed for seed in self.runs(name) if (name, seed) not in have])
        ]

    def records(self) -> Iterator[tuple[str, dict]]:
        """Yield each method, with its place and seeds as plain values."""
        place = {name: getattr(self.first, name) for name in ("protocol", "source", "dataset")}
        place |= {"shots": self.shots, "column": self.column}
        for name in self.lines["name"]:
            yield name, place | {"method": name, "seeds": list(self.runs(name)), "problems": []}


def tests(tidy: pd.DataFrame) -> list[Test]:
    """Return all tests that the runs contain, in their order."""
    # zero-shot runs appear with every number of shots
    trained = tidy[tidy["shots"] > 0].groupby("table")["shots"].agg(set)
    measured = tidy[(tidy["column"] != "h") & tidy["value"].notna()]
    shots = [
        [shots] if shots else sorted(trained.get(table, {0}))
        for shots, table in zip(measured["shots"], measured["table"], strict=True)
    ]
    measured = measured.assign(of_shots=shots).explode("of_shots")
    columns = {column: i for i, column in enumerate(dict.fromkeys(measured["column"]))}
    measured = measured.assign(place=measured["column"].map(columns)).sort_values(
        ["line", "place", "seed"], kind="stable"
    )
    same = ["table", "dataset", "of_shots", "column"]
    return [
        Test(shots, column, members)
        for (*_, shots, column), members in measured.groupby(same, sort=False)
    ]


class Metrics:
    """Tables with a line for each method and a column for each metric.

    Tables over base and new classes (accuracies, costs) come first, then those of each test, with
    the out-of-distribution detection of its runs.

    Args:
        tidy: a data frame as `frame` makes it, of any protocols.
    """

    picture = "reliability"  # the kind of plot, a key of `pictures.PICTURES`

    def __init__(self, tidy: pd.DataFrame):
        self.tests = tests(tidy)
        halves = tidy[tidy["column"].isin(("base", "new", "h"))]
        self.both = Both(halves) if halves["value"].notna().any() else None

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        both = self.both.tables() if self.both else {}
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            protocol = protocol_of(test.first)
            found.setdefault(protocol, both.get(protocol, [])).extend(self._tables(test))
        return found

    def _tables(self, test: Test) -> Iterator[Table]:
        have = set(test.rows["metric"])
        metrics = {key: of for key, of in METRICS.items() if of.everywhere or key in have}
        notes = "; ".join(metric.note for metric in metrics.values() if metric.note)
        measured = test.rows[test.rows["metric"] == "calibration_error"]
        problems = test.without(measured, MISSING)
        limits = test.rows[
            (test.rows["metric"] == "temperature") & test.rows["value"].map(at_bound)
        ]
        for name, of in limits.groupby("name", sort=False):
            problems.append(f"{name}: {AT_BOUND} [{seeds_text(list(of['seed']))}]")
        spread, lines = spread_note(test.seeds), test.lines
        title = f"{test.where}: metrics"
        yield metric_table(title, lines, test.rows, metrics, [spread, f"{notes}."], problems)
        if metrics := {key: of for key, of in _ood(test).items() if key in have}:
            detected = test.rows[test.rows["metric"].isin(metrics)]
            problems = test.without(detected, NO_OOD)
            title = f"{test.where}: out-of-distribution detection"
            yield metric_table(title, lines, detected, metrics, [spread, OOD_NOTE], problems)

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers."""
        found = self.both.records() if self.both else []
        for test in self.tests:
            means = test.rows.groupby(["name", "metric"])["value"].mean()
            for name, of in test.records():
                found.append(of | {key: means.get((name, key)) for key in (*METRICS, *_ood(test))})
        return found


def _ood(test: Test) -> dict[str, Metric]:
    """Return the metrics of out-of-distribution detection, by name in the frame."""
    first = ood_name("{}", next(iter(OOD))).split("{}")
    shown = [key for key in dict.fromkeys(test.rows["metric"]) if key.startswith(first[0])]
    sets = [key[len(first[0]) : -len(first[1])] for key in shown if key.endswith(first[1])]
    return {
        ood_name(name, key): metric._replace(head=f"{dataset_title(name)}: {metric.head}")
        for name in sets
        for key, metric in OOD.items()
    }


class Classes:
    """A table for each test, with a line for each class and a column for each method's accuracy.

    Args:
        tidy: a data frame as `frame` makes it, of any protocols.
    """

    picture = "confusion"

    def __init__(self, tidy: pd.DataFrame):
        self.tests = tests(tidy)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            numbers, images = _of_classes(test)
            lines = [
                [Cell(name), *([Cell(str(images[name]))] if images else []), *map(_cell, values)]
                for name, values in zip(numbers.index, numbers.to_numpy(), strict=True)
            ]
            title = f"{test.where}: accuracy (%) of each class"
            caption = ["Mean over the seeds." if test.seeds > 1 else ONE_SEED]
            head = ["Class", *(["n"] if images else []), *numbers]
            caption += [N_NOTE] if images else []
            known = test.rows[test.rows["classes"].map(bool)]
            table = Table(title, head, lines, caption, test.without(known, MISSING))
            found.setdefault(protocol_of(test.first), []).append(table)
        return found

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            of | {"class": label, "accuracy": accuracy, "images": images.get(label)}
            for test in self.tests
            for numbers, images in [_of_classes(test)]
            for name, of in test.records()
            for label, accuracy in numbers[name].dropna().items()
        ]


def _cell(accuracy: float) -> Cell:
    return Cell("-") if np.isnan(accuracy) else Cell(f"{accuracy:.2f}", accuracy)


def _of_classes(test: Test) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return means over the seeds, a row a class with test images and a column a method.

    Also return the number of test images of each class; none if no run says it.
    """
    runs = test.rows[test.rows["metric"] == "accuracy"]
    said = [
        (row.name, label, accuracy)
        for row in each_row(runs)
        for label, accuracy in row.classes.items()
        if accuracy is not None
    ]
    numbers = pd.DataFrame(said, columns=["name", "class", "value"])
    means = numbers.groupby(["class", "name"], sort=False)["value"].mean().unstack()
    means = means.reindex(index=numbers["class"].unique(), columns=list(test.lines["name"]))
    return means, next(filter(None, map(images_of_classes, runs["outcome"])), {})


def images_of_classes(outcome: Outcome) -> dict[str, int]:
    """Return the number of test images of each class; empty without predictions or class names."""
    names = list((outcome.result or {}).get(PER_CLASS) or {})
    try:
        label = arrays_of(outcome)["label"]
    except UserError:
        return {}
    if label.max() >= len(names):
        return {}
    return dict(zip(names, np.bincount(label, minlength=len(names)).tolist(), strict=True))
