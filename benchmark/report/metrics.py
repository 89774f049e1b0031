"""Tables of further metrics, and of the accuracy of each class."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError
from trainers.prompting.record.metrics import BINS

from ..protocols.base import Protocol, shots_text
from ..records import METRICS, OOD, PER_CLASS, Metric, Outcome, at_bound
from .frame import apart_note, attack_note, each_row, ood_name
from .grids import RELATIVE, RELATIVE_TO, TIMES, Grid, Test, both_halves, tests
from .names import dataset_title
from .per_image import arrays_of, tasks_of
from .tables import AVERAGE_NOTE, H_NOTE, ONE_SEED, Cell, Table, more, seeds_text, spread_note
from .training import ATTACK

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
AT_BOUND = "the temperature is at its bound, so that ECE scaled could be less"
NO_OOD = "not tested on other data sets; repeat the run with --ood"
OOD_NOTE = (
    "AUROC and FPR95 (%) of telling test images from those of another data set, which stands "
    "before them, by MCM or GL-MCM."
)
N_NOTE = "n: test images of the class."
# Columns (in %) of the table over base and new classes together.
JOINT = {
    "base": Metric("Base"),
    "new": Metric("New"),
    "h": Metric("H"),
    "joint_accuracy": Metric("Joint"),
    "calibration_error": Metric("ECE", more_is_better=False),
    "calibration_error_scaled": Metric("ECE scaled", more_is_better=False),
}
JOINT_NOTE = (
    "Joint, ECE (expected calibration error, in {} bins) and ECE scaled (after division of the "
    "logits by a temperature) are over all classes. All in %."
)
TRAINING_NOTE = "Training is the mean over the seeds."


class Metrics:
    """Tables with a line for each method and a column for each metric.

    Tables over base and new classes (accuracies, costs) come first, then those of each test, with
    out-of-distribution detection.
    """

    heading = "More metrics"
    picture = "reliability"  # the kind of plot, a key of `pictures.PICTURES`

    def __init__(self, tidy: pd.DataFrame, numbers: pd.DataFrame, bins: int = BINS):
        self.tests, self.both, self.bins = tests(tidy, numbers), [*both_halves(numbers)], bins

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        by_protocol: dict[Protocol, list[Table]] = {test.protocol: [] for test in self.tests}
        for grid in self.both:
            by_protocol[grid.protocol].extend(_of_halves(grid, self.bins))
        for test in self.tests:
            by_protocol[test.protocol].extend(self._tables(test))
        return by_protocol

    def _tables(self, test: Test) -> Iterator[Table]:
        by_metric = dict([*test.runs.groupby("metric")])
        metrics = {
            key: each for key, each in METRICS.items() if each.everywhere or key in by_metric
        }
        no_rows, spread = test.runs[:0], spread_note(test.lines["seeds"].str.len().max())
        of_tasks = test.runs["outcome"].map(tasks_of).astype(bool)  # without by design
        counted = test.runs[(test.runs["metric"] == "negative_log_likelihood") | of_tasks]
        problems = test.without(counted, MISSING)
        problems += _too_weak(by_metric.get("robust_accuracy", no_rows))
        limits = by_metric.get("temperature", no_rows)
        for name, members in limits[limits["value"].map(at_bound).astype(bool)].groupby(
            "name", sort=False
        ):
            problems.append(f"{name}: {AT_BOUND} [{seeds_text(list(members['seed']))}]")
        notes = [spread, *explain(metrics, self.bins), *attack_note(each_row(test.lines))]
        table = test.table(": metrics", metrics, notes, problems)
        yield replace(table, picture=f"{self.picture}_{test.name}")
        if metrics := {key: each for key, each in _ood(test).items() if key in by_metric}:
            problems = test.without(pd.concat(by_metric[key] for key in metrics), NO_OOD)
            title = ": out-of-distribution detection"
            yield test.table(title, metrics, [spread, OOD_NOTE], problems)

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers."""
        of_tests = [(test, [*METRICS, *_ood(test)]) for test in self.tests]
        grids = [*((grid, [*JOINT]) for grid in self.both), *of_tests]
        return [record for grid, metrics in grids for record in grid.records(metrics)]


def _of_halves(grid: Grid, bins: int) -> Iterator[Table]:
    """Yield the tables of base and new classes together: joint metrics, then costs, if shown."""
    first, what = next(each_row(grid.lines)), ": base and new classes together"
    shots, notes = shots_text(first.shots), [H_NOTE, JOINT_NOTE.format(bins)]
    if first.average:
        table = grid.table(f"{what}, {shots}", JOINT, [AVERAGE_NOTE, *notes])
        table.caption += apart_note(each_row(grid.lines))
        yield table
        return
    runs = f"{shots}, {seeds_text(first.seeds)}"
    spread = spread_note(grid.numbers["count"].max())
    problem_rows = grid.lines[["name", "problems"]].explode("problems").dropna()
    problems = [
        f"{', '.join(names)}: {why}"
        for why, names in problem_rows.groupby("problems", sort=False)["name"]
    ]
    yield grid.table(f"{what}, {runs}", JOINT, [spread, *notes], problems)
    if grid.protocol.costs:
        caption = [spread, H_NOTE, TRAINING_NOTE]
        table = grid.table(f": accuracy and cost, {runs}", {"h": JOINT["h"]}, caption)
        for line, row in zip(table.lines, each_row(grid.lines), strict=True):
            costs = more(row)
            for key, name in RELATIVE.items():
                times = getattr(row, key + TIMES)
                costs[f"{name}, x {RELATIVE_TO}"] = "-" if pd.isna(times) else f"{times:.2f}"
            line += map(Cell, costs.values())
        table.head += costs
        yield table


def _too_weak(numbers: pd.DataFrame) -> list[str]:
    """Return a sentence for each attack that others show to be weak, or that found no gradient.

    `numbers` are rows of the metric `robust_accuracy` in one place.
    """
    found = {}
    for row in each_row(numbers.drop_duplicates("name")):
        if why := _attack(row).get("weak"):
            found[row.name] = f"{row.name}: attack too weak: {why}"
    for _, members in numbers.assign(of=[*map(_place, each_row(numbers))]).groupby("of"):
        means = members.groupby("name")["value"].mean()
        best = means.idxmin()
        for name in means.index[means > means[best] + 1]:
            text = f"{name}: attack too weak: {means[best]:.2f}% are left by {best}"
            found.setdefault(name, text)
    return [*found.values()]


def _place(row: Any) -> tuple:
    """Return what attacks of the same method that may be compared share."""
    facts, others = _attack(row), [pair for pair in row.settings if pair[0] != ATTACK]
    return row.method, str(others), facts.get("eps"), facts.get("images")


def _attack(row: Any) -> dict:
    return row.outcome.result.get(ATTACK) or {}


def explain(keys: Iterable[str], bins: int = BINS) -> list[str]:
    """Return a sentence on those of these metrics that need one, if any."""
    notes = [note.format(bins) for key in keys if (note := METRICS[key].note)]
    return [f"{'; '.join(notes)}."] if notes else []


def _ood(test: Test) -> dict[str, Metric]:
    """Return the metrics of out-of-distribution detection, by name in the frame."""
    results = [outcome.result for outcome in test.runs["outcome"]]
    sets = dict.fromkeys(name for result in results for name in result.get("ood") or ())
    return {
        ood_name(name, key): metric._replace(head=f"{dataset_title(name)}: {metric.head}")
        for name in sets
        for key, metric in OOD.items()
    }


class Classes:
    """A table for each test, with a line for each class and a column for each method's accuracy."""

    heading = "Classes"
    picture = "confusion"

    def __init__(self, tidy: pd.DataFrame, numbers: pd.DataFrame):
        self.tests = tests(tidy, numbers)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        by_protocol: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            several = test.lines["seeds"].str.len().max() > 1
            caption = ["Mean over the seeds." if several else ONE_SEED]
            with_classes = test.runs[test.runs["classes"].map(bool)]
            title = f"{test.where}: accuracy (%) of each class"
            table = class_table(
                title, *_of_classes(test), caption, test.without(with_classes, MISSING)
            )
            table = replace(table, picture=f"{self.picture}_{test.name}")
            by_protocol.setdefault(test.protocol, []).append(table)
        return by_protocol

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            place | {"class": label, "accuracy": accuracy, "images": images.get(label)}
            for test in self.tests
            for numbers, images in [_of_classes(test)]
            for place in test.records(())
            for label, accuracy in numbers[place["method"]].dropna().items()
        ]


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
    return Cell("-") if np.isnan(accuracy) else Cell(f"{accuracy:.2f}", accuracy)


def _of_classes(test: Test) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return means over the seeds, a row a class with test images and a column a method.

    Also return the number of test images of each class; none if no run says it.
    """
    runs = test.runs[test.runs["metric"] == "accuracy"]
    entries = [(row.name, *item) for row in each_row(runs) for item in row.classes.items()]
    numbers = pd.DataFrame(entries, columns=["name", "class", "value"]).dropna()
    numbers = numbers.astype({"value": float}).groupby(["class", "name"], sort=False)
    means = numbers["value"].mean().unstack().reindex(columns=list(test.lines["name"]))
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
