"""Metrics over base and new classes together, from the two tests of a training.

OpenworldAUC is the mean of a kernel over pairs of a base and a new image. The kernel is 1 where
both images are classified correctly among their own classes and the base image has the higher
score, 1/2 if the scores are equal, else 0. OpenworldAUC is a two-sample U-statistic: an image
changes it by (the mean of the kernel over the image's pairs - the value) / (the number of images
of its split). An image changes a plain mean in the same way, so `paired` takes these means in place
of right and wrong answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..records import Metric, Outcome
from . import published
from .answers import Answers, answers, each_seed, joint_answers, joint_arrays
from .names import by_artist
from .paired import harmonic
from .tables import seeds_text

if TYPE_CHECKING:
    import pandas as pd

# Columns (in %) of the extended base-to-new table: those of the single tests, then the keys of
# `joint_metrics`.
JOINT = {
    "base": Metric("Base"),
    "new": Metric("New"),
    "h": Metric("H"),
    "joint_accuracy": Metric("Joint"),
    "openworld_auc": Metric("OpenworldAUC"),
    "auroc": Metric("AUROC"),
    "calibration_error": Metric("ECE", more_is_better=False),
    "calibration_error_scaled": Metric("ECE scaled", more_is_better=False),
}
RELATIVE_TO = "CoOp"  # costs are multiples of this method's
RELATIVE = {"train_seconds": "Training", "step_seconds": "Step", "peak_memory_mib": "Memory"}


class Measure(NamedTuple):
    """A metric by which two methods are compared.

    Attributes:
        read: returns the answers of a run.
        parts: turns the answers on base and on new images (for plain accuracy: of one run) into
            one array for each, which takes the place of right and wrong. The metric is the sum of
            their means if there is a `head`, else it is computed from the means.
        head: the name of the metric in titles; empty for plain accuracy.
        note: a sentence for the caption.
    """

    read: Callable[[Outcome], Answers]
    parts: Callable[..., tuple[np.ndarray, ...]]
    head: str = ""
    note: str = ""


def accuracy_parts(*of: Answers) -> tuple[np.ndarray, ...]:
    """Return the hits of each run."""
    return tuple(each.hits for each in of)


def joint_parts(base: Answers, new: Answers) -> tuple[np.ndarray, ...]:
    """Return the hits among all classes, weighted by the share of images of each split."""
    halves = [np.asarray(half.joint_hits, float) for half in (base, new)]
    images = sum(map(len, halves))
    return tuple(hits * len(hits) / images for hits in halves)


def openworld_parts(base: Answers, new: Answers) -> tuple[np.ndarray, ...]:
    """Return the change of OpenworldAUC by each image; each split's mean is half of the value."""
    means = []
    # for a new image, a lower score is better
    for side, other, sign in ((base, new, 1), (new, base, -1)):
        scores = np.sort(sign * np.asarray(other.base_score)[other.hits])
        own = sign * np.asarray(side.base_score)
        below = np.searchsorted(scores, own, "left") + np.searchsorted(scores, own, "right")
        means.append(side.hits * below / (2 * len(other.hits)))
    return tuple(of_side - of_side.mean() / 2 for of_side in means)


# By name; all but accuracy are over base and new classes together, and belong to the rows of H.
MEASURES = {
    "accuracy": Measure(answers, accuracy_parts),
    "joint_accuracy": Measure(
        joint_answers,
        joint_parts,
        "Joint",
        "Joint is the accuracy on base and new images among all classes.",
    ),
    "openworld_auc": Measure(
        joint_answers,
        openworld_parts,
        "OpenworldAUC",
        "OpenworldAUC is the share of pairs of a base and a new image in order, and both right.",
    ),
}


class Both:
    """The metrics of several methods over base and new classes of one data set.

    Args:
        lines: the row of H of each method.

    Attributes:
        first: the first row.
        lines: the rows, by line name.
        numbers: for each method and key of JOINT, a number for each seed.
        missing: for each method, messages on what is missing, with the seeds.
        relative: the costs of each method, as multiples of CoOp's.
    """

    def __init__(self, lines: list[Any]):
        """Compute the metrics; those that cannot be computed go to `missing`."""
        self.first = lines[0]
        self.lines = {row.line_name: row for row in lines}
        self.relative = relative(lines)
        self.numbers: dict[str, dict[str, list[float]]] = {}
        self.missing: dict[str, dict[str, list[int]]] = {}
        for name, row in self.lines.items():
            self.numbers[name], self.missing[name] = _numbers(row)

    @property
    def marked(self) -> dict[str, str]:
        """The names of the lines, with marks for what methods need beyond the class names."""
        return {name: published.marked(name, row.beyond) for name, row in self.lines.items()}

    @property
    def meaning(self) -> list[str]:
        """Sentences that explain these marks, if any."""
        return published.meaning(mark for row in self.lines.values() for mark in row.beyond)

    @property
    def seeds(self) -> int:
        """The largest number of seeds that a mean is over."""
        return max(len(values) for of in self.numbers.values() for values in of.values())

    @property
    def problems(self) -> list[str]:
        """Sentences on what is missing, each with all methods concerned."""
        methods: dict[str, list[str]] = {}
        for method, missing in self.missing.items():
            for why, seeds in missing.items():
                methods.setdefault(f"{why} [{seeds_text(seeds)}]", []).append(method)
        return [f"{', '.join(names)}: {why}" for why, names in methods.items()]

    def record(self, method: str) -> dict:
        """Return the place, metrics and costs of a method as plain values."""
        row = self.lines[method]
        return {
            "protocol": row.protocol.name,
            "source": row.source,
            "dataset": row.dataset,
            "shots": row.shots,
            "column": "base and new",
            "method": method,
            "seeds": row.seeds,
            "problems": [
                f"{why} [{seeds_text(seeds)}]" for why, seeds in self.missing[method].items()
            ],
            **{key: mean(of) if (of := self.numbers[method][key]) else None for key in JOINT},
            **{key: getattr(row, key) for key in ("num_params", *RELATIVE)},
            **{f"{key}_x_coop": value for key, value in self.relative[method].items()},
        }


def relative(lines: Iterable[Any]) -> dict[str, dict[str, float | None]]:
    """Return the costs of methods by the keys of RELATIVE, as multiples of CoOp's.

    Args:
        lines: a row of each method.

    Returns:
        Costs by line name; None where a cost is unknown or CoOp was not run.
    """
    by_name = {row.line_name: row for row in lines}
    unit = by_name.get(RELATIVE_TO)
    found: dict[str, dict[str, float | None]] = {}
    for name, row in by_name.items():
        costs = {key: (getattr(row, key), getattr(unit, key, None)) for key in RELATIVE}
        found[name] = {
            key: own / of if own is not None and of else None for key, (own, of) in costs.items()
        }
    return found


def both_halves(rows: pd.DataFrame) -> list[Both]:
    """Return a `Both` for every data set with runs on base or new classes, in the rows' order."""
    measured = rows[~rows["average"] & (rows["column"] == "h")]
    measured = measured[measured["runs"].map(lambda runs: any(runs.values())).astype(bool)]
    return [
        Both(list(members.itertuples())) for _, members in measured.groupby("table", sort=False)
    ]


def averaged(both: list[Both]) -> list[tuple[str, list[Both]]]:
    """Group data sets whose numbers can be averaged; groups of one are left out.

    Returns:
        "" and the data sets of a group; then the same for each artist, with the artist's name.
    """
    groups: dict[int, list[Both]] = {}
    for one in both:
        groups.setdefault(one.first.group, []).append(one)
    found = []
    for group in groups.values():
        found.append(("", group))
        for artist, drawn in by_artist([one.first.dataset for one in group]).items():
            found.append((artist, [one for one in group if one.first.dataset in drawn]))
    return [(artist, group) for artist, group in found if len(group) > 1]


def averages(group: list[Both]) -> dict[str, dict[str, tuple[float, int]]]:
    """Return means over data sets by method and key of JOINT, each with its number of data sets.

    A data set counts for a method only if it has H there. H is computed from the averages.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for method in dict.fromkeys(name for both in group for name in both.lines):
        whole = [of for both in group if (of := both.numbers.get(method)) and of["h"]]
        means = {key: [mean(of[key]) for of in whole if of[key]] for key in JOINT}
        found[method] = {key: (mean(of), len(of)) for key, of in means.items() if of}
        if whole:
            (base, count), (new, _) = found[method]["base"], found[method]["new"]
            found[method]["h"] = float(harmonic(base, new)), count
    return found


def _numbers(row: Any) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Return the numbers of a line, for each seed; and what is missing, with the seeds."""
    base, new = row.runs["base"], row.runs["new"]
    pairs = {seed: (base[seed], new[seed]) for seed in sorted(base.keys() & new.keys())}
    found, missing = each_seed(pairs, joint)
    for half, lacking in (("base", new.keys() - base.keys()), ("new", base.keys() - new.keys())):
        if lacking:
            missing[f"no finished run on {half} classes"] = sorted(lacking)
    numbers = {half: [run.accuracy for run in row.runs[half].values()] for half in row.runs}
    numbers["h"] = [float(harmonic(b.accuracy, n.accuracy)) for b, n in pairs.values()]
    for key in JOINT.keys() - numbers.keys():
        numbers[key] = [of[key] for of in found.values() if key in of]
    return numbers, missing


def joint(runs: tuple[Outcome, Outcome]) -> dict[str, float]:
    """Return `joint_metrics` of one training, from its runs on base and on new classes.

    Raises:
        UserError: the joint columns are missing, or the runs have different classes.
    """
    from recipe.metrics import joint_metrics  # scipy.stats is slow to load

    return joint_metrics(*map(joint_arrays, runs)) or {}
