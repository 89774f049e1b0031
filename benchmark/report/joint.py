"""Base and new classes together: the numbers of the two tests of a training, and how they compare.

OpenworldAUC is the mean of a kernel over pairs of a base and a new image: 1 where both are
classified rightly in their halves and the base image has the higher score, 1/2 if the scores are
equal. Like any two-sample U-statistic it moves with an image by the mean of the kernel over that
image's pairs, less the value, over the number of images of its half. That is what an image
contributes to a plain mean, too, so such means stand in place of answers in `paired`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import published
from .answers import Answers, answers, each_seed, joint_answers, joint_arrays
from .paired import harmonic
from .results import Metric, Outcome
from .tables import seeds_text

if TYPE_CHECKING:
    import pandas as pd

# The numbers of a base-to-new table that says more, in %: by the keys of `joint_metrics`, after
# those that each test has.
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
RELATIVE_TO = "CoOp"  # the costs of others
RELATIVE = {"train_seconds": "Training", "step_seconds": "Step", "peak_memory_mib": "Memory"}


class Measure(NamedTuple):
    """A number that two methods are compared by.

    `read` gives the answers of a run, and `parts` from those of base and new images (of a plain
    accuracy: from one run's) what takes the place of right and wrong: the score in the table is
    that of the means, or where there is a `head`, their sum.
    """

    read: Callable[[Outcome], Answers]
    parts: Callable[..., tuple[np.ndarray, ...]]
    head: str = ""
    note: str = ""


def accuracy_parts(*of: Answers) -> tuple[np.ndarray, ...]:
    """The hits of each run."""
    return tuple(each.hits for each in of)


def joint_parts(base: Answers, new: Answers) -> tuple[np.ndarray, ...]:
    """The hits over all classes, weighted by the share of images of each half."""
    halves = [np.asarray(half.joint_hits, float) for half in (base, new)]
    images = sum(map(len, halves))
    return tuple(hits * len(hits) / images for hits in halves)


def openworld_parts(base: Answers, new: Answers) -> tuple[np.ndarray, ...]:
    """The move of OpenworldAUC with each image; the mean of either half is half of it."""
    means = []
    # of a new image the lower score is the better one
    for side, other, sign in ((base, new, 1), (new, base, -1)):
        scores = np.sort(sign * np.asarray(other.base_score)[other.hits])
        own = sign * np.asarray(side.base_score)
        below = np.searchsorted(scores, own, "left") + np.searchsorted(scores, own, "right")
        means.append(side.hits * below / (2 * len(other.hits)))
    return tuple(of_side - of_side.mean() / 2 for of_side in means)


# By the name of a metric; those of base and new together are of the rows of H.
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
    """The methods of a table on both halves of a data set.

    Args:
        lines: a row of each method, that of H.

    Attributes:
        first: the first of the rows.
        lines: the rows, by the names of their lines.
        numbers: of each method by the keys of JOINT, a number for each seed.
        missing: of each method what is, with the seeds.
        relative: the costs of each method, as multiples of those of CoOp.
    """

    def __init__(self, lines: list[Any]):
        """Compute; what cannot be is noted."""
        self.first = lines[0]
        self.lines = {row.line_name: row for row in lines}
        self.relative = relative(lines)
        self.numbers: dict[str, dict[str, list[float]]] = {}
        self.missing: dict[str, dict[str, list[int]]] = {}
        for name, row in self.lines.items():
            self.numbers[name], self.missing[name] = _numbers(row)

    @property
    def marked(self) -> dict[str, str]:
        """The names of the lines with the marks of what the methods take."""
        return {name: published.marked(name, row.beyond) for name, row in self.lines.items()}

    @property
    def meaning(self) -> list[str]:
        """A sentence on these marks, if there are any."""
        return published.meaning(mark for row in self.lines.values() for mark in row.beyond)

    @property
    def seeds(self) -> int:
        """The most that a number is over."""
        return max(len(values) for of in self.numbers.values() for values in of.values())

    @property
    def problems(self) -> list[str]:
        """Sentences on what is missing, each with all methods that lack it."""
        methods: dict[str, list[str]] = {}
        for method, missing in self.missing.items():
            for why, seeds in missing.items():
                methods.setdefault(f"{why} [{seeds_text(seeds)}]", []).append(method)
        return [f"{', '.join(names)}: {why}" for why, names in methods.items()]

    def record(self, method: str) -> dict:
        """The place, the numbers and the costs of a method, for machines."""
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
    """The costs of the rows of a table by the keys of RELATIVE, as multiples of those of CoOp.

    Args:
        lines: a row of each method.

    Returns:
        By the names of the lines; None where a cost is not known, or there is no CoOp.
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
    """Every data set with runs on base or new classes, in the order of the rows."""
    measured = rows[~rows["average"] & (rows["column"] == "h")]
    measured = measured[measured["runs"].map(lambda runs: any(runs.values())).astype(bool)]
    return [
        Both(list(members.itertuples())) for _, members in measured.groupby("table", sort=False)
    ]


def averaged(both: list[Both]) -> list[list[Both]]:
    """Those whose numbers can be averaged, wherever there are several data sets."""
    groups: dict[int, list[Both]] = {}
    for one in both:
        groups.setdefault(one.first.group, []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def averages(group: list[Both]) -> dict[str, dict[str, tuple[float, int]]]:
    """The means over data sets of each method by the keys of JOINT, and over how many each is.

    Data sets without H of a method do not count for it. H is that of the averages.
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
    """The numbers of a line, of each seed; and what is missing, with the seeds."""
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
    """`joint_metrics` of a training's test on base classes, and of that on new ones.

    Raises:
        UserError: they have no such columns, or are not of one set of classes.
    """
    from recipe.metrics import joint_metrics  # scipy.stats is slow to load

    return joint_metrics(*map(joint_arrays, runs)) or {}
