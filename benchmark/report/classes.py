"""Tests of several methods on the same images, and tables of the accuracy of each class."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol
from ..records import Outcome, of_classes
from .frame import each_row, main_rows
from .notes import ONE_SEED, name_of_test
from .per_image import arrays_of
from .summary import protocol_of
from .table import Cell, Table

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
N_NOTE = "n: test images of the class."


class Test(NamedTuple):
    """The runs of several methods on the same test images."""

    where: str  # the place in words
    place: dict  # the same as plain values, by the keys of records
    lines: pd.DataFrame  # a row of each method
    runs: pd.DataFrame  # rows of the frame

    @property
    def name(self) -> str:
        """The place as a file name."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    def outcomes(self, method: str) -> dict[int, Outcome]:
        """Return the outcomes of a method, by seed."""
        members = self.runs[self.runs["name"] == method]
        return dict(zip(members["seed"], members["outcome"], strict=True))


def tests(tidy: pd.DataFrame, numbers: pd.DataFrame) -> list[Test]:
    """Return all tests that have finished runs, in the order of the summary."""
    finished = main_rows(numbers)
    finished = finished[finished["column"].isin(set(tidy["column"])) & (finished["count"] > 0)]
    finished = finished[~finished["average"]]
    # zero-shot runs appear with every number of shots
    trained = finished[finished["shots"] > 0].groupby("table")["shots"].agg(set)
    shots = [
        [shots] if shots else sorted(trained.get(table, {0}))
        for shots, table in zip(finished["shots"], finished["table"], strict=True)
    ]
    finished = finished.assign(of_shots=shots).explode("of_shots")
    runs = main_rows(tidy)
    runs = runs[runs["value"].notna()].sort_values(["line", "seed"], kind="stable")
    by_place = dict([*runs.groupby(["table", "dataset", "column"])])
    by_test = finished.groupby(["table", "dataset", "column", "of_shots"], sort=False)
    return [_test(members, by_place[tuple(place)]) for (*place, _), members in by_test]


def _test(lines: pd.DataFrame, runs: pd.DataFrame) -> Test:
    """Return the test of these lines; `of_shots` is its number of shots."""
    row = next(each_row(lines))
    place = {name: getattr(row, name) for name in ("protocol", "source", "dataset")}
    place |= {"shots": row.of_shots, "column": row.column}
    runs = runs[runs["line"].isin(lines["line"])]
    seeds = runs.groupby("name")["seed"].agg(lambda column: list(dict.fromkeys(column)))
    lines = lines.assign(seeds=lines["name"].map(seeds))
    return Test(name_of_test(row, row.of_shots), place, lines, runs)


def measured(metric: str) -> str:
    """Return what is measured of each class where the main metric is this."""
    return "average precision" if metric == "map" else "accuracy"


class Classes:
    """A table for each test, with a line for each class and a column for each method's accuracy."""

    heading = "Classes"
    picture = "confusion"  # the kind of plot, a key of `pictures.PICTURES`

    def __init__(self, tidy: pd.DataFrame, numbers: pd.DataFrame):
        self.tests = tests(tidy, numbers)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        by_protocol: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            several = test.lines["seeds"].str.len().max() > 1
            caption = ["Mean over the seeds." if several else ONE_SEED]
            title = f"{test.where}: {measured(test.lines['main'].iloc[0])} (%) of each class"
            table = class_table(title, *_of_classes(test), caption, _without_classes(test))
            table = replace(table, picture=f"{self.picture}_{test.name}")
            by_protocol.setdefault(protocol_of(test.lines), []).append(table)
        return by_protocol

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            test.place
            | {"method": row.name, "seeds": row.seeds, "problems": []}
            | {"class": label, measured(row.main).replace(" ", "_"): value}
            | {"images": images.get(label)}
            for test in self.tests
            for numbers, images in [_of_classes(test)]
            for row in each_row(test.lines)
            for label, value in numbers[row.name].dropna().items()
        ]


def _without_classes(test: Test) -> list[str]:
    """Return a sentence for each method with runs that say nothing of classes."""
    lacking = test.runs[~test.runs["classes"].map(bool).astype(bool)]
    by_name = lacking.groupby("name", sort=False)["seed"]
    return [f"{name}: {MISSING} [seed {', '.join(map(str, seeds))}]" for name, seeds in by_name]


def class_table(
    title: str,
    numbers: pd.DataFrame,
    images: dict[str, int],
    caption: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> Table:
    """Return a table of accuracies by class, with the numbers of test images if they are known."""
    lines = [
        [Cell(name), *([Cell(str(images[name]))] if images else []), *map(_cell, values)]
        for name, values in zip(numbers.index, numbers.to_numpy(), strict=True)
    ]
    head = ["Class", *(["n"] if images else []), *numbers]
    caption = [*caption, *([N_NOTE] if images else [])]
    return Table(title, head, lines, caption, list(problems), by_line=True)


def _cell(accuracy: float) -> Cell:
    return Cell("-") if np.isnan(accuracy) else Cell(f"{accuracy:.2f}", round(accuracy, 2))


def _of_classes(test: Test) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return means over the seeds, a row a class with test images and a column a method.

    Also return the number of test images of each class; none if no run says it.
    """
    entries = [(row.name, *item) for row in each_row(test.runs) for item in row.classes.items()]
    numbers = pd.DataFrame(entries, columns=["name", "class", "value"]).dropna()
    numbers = numbers.astype({"value": float}).groupby(["class", "name"], sort=False)
    means = numbers["value"].mean().unstack().reindex(columns=list(test.lines["name"]))
    return means, next(filter(None, map(images_of_classes, test.runs["outcome"])), {})


def images_of_classes(outcome: Outcome) -> dict[str, int]:
    """Return the number of test images of each class; empty without predictions or class names."""
    names = list(of_classes(outcome.result or {}))
    try:
        label = arrays_of(outcome)["label"]
    except UserError:
        return {}
    if outcome.metric == "map":
        return dict(zip(names, (label == 1).sum(axis=0).tolist(), strict=True))
    if label.max() >= len(names):
        return {}
    return dict(zip(names, np.bincount(label, minlength=len(names)).tolist(), strict=True))
