"""Metrics over base and new classes together, from the two tests of a training.

OpenworldAUC is the mean of a kernel over pairs of a base and a new image. The kernel is 1 where
both images are classified correctly among their own classes and the base image has the higher
score, 1/2 if the scores are equal, else 0. OpenworldAUC is a two-sample U-statistic: an image
changes it by (the mean of the kernel over the image's pairs - the value) / (the number of images
of its split). An image changes a plain mean in the same way, so `paired` takes these means in place
of right and wrong answers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..records import Outcome
from .answers import Answers, answers, joint_answers, joint_arrays


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


def joint(runs: tuple[Outcome, Outcome]) -> dict[str, float]:
    """Return `joint_metrics` of one training, from its runs on base and on new classes.

    Raises:
        UserError: the joint columns are missing, or the runs have different classes.
    """
    from trainers.prompting.record.metrics import joint_metrics  # scipy.stats is slow to load

    return joint_metrics(*map(joint_arrays, runs)) or {}
