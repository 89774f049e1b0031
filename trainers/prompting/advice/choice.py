"""The choice of a CLIP and a method by out-of-fold answers.

Letters: N images, n of them labelled, K classes, m the median number of labels of a class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from scipy.special import softmax

from ..errors import need
from ..record.calibration import fit_temperature
from .fits import COMPARED, Space
from .folds import MOST, folds, join, near_copies

FEW = 4  # labels a class from which GDA is a candidate: fewer have no scatter in a fold
# logarithms of the temperatures that are tried; logits grow with the weight of GDA
TEMPERATURES = math.log(0.05), math.log(1e6)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method on a CLIP, and its answers to labelled images that it had not seen."""

    clip: str
    method: str
    number: int  # of the CLIP among those that were given
    logits: np.ndarray  # (n, K)
    right: int  # answers
    temperature: float  # with which the answers are likeliest
    loss: float  # their mean cross-entropy at it
    zero_shot: int  # right answers of zero-shot CLIP
    settings: Mapping[str, float] = field(default_factory=dict)  # besides fits.SETTINGS


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidates, best first, and the n labelled images on which they were compared."""

    candidates: list[Candidate]
    rows: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    groups: np.ndarray  # (n,), of images that share a fold
    fold: np.ndarray  # (n,), from 0
    counts: np.ndarray  # (K,), labels of each class
    judged: np.ndarray  # (n,), False where the fits had no image of the class

    @property
    def best(self) -> Candidate:
        """The candidate to take."""
        return self.candidates[0]

    @property
    def blind(self) -> bool:
        """True if likelihood decides, as answers to classes without labels count for nothing."""
        return self.m < 2 or not self.counts.all()

    @property
    def effective(self) -> float:
        """The number of independent images that these are worth, as images of a group are alike."""
        sizes = np.unique(self.groups, return_counts=True)[1]
        return float(sizes.sum() ** 2 / (sizes**2).sum())

    @property
    def parts(self) -> int:
        """The number of folds."""
        return int(self.fold.max()) + 1

    @property
    def m(self) -> float:
        """The median number of labels of a class."""
        return float(np.median(self.counts))

    @property
    def probabilities(self) -> np.ndarray:
        """The best candidate's probabilities at its temperature, (n, K)."""
        p: np.ndarray = softmax(self.best.logits / self.best.temperature, axis=1)
        return p


def choose(
    spaces: Sequence[Space], labels: Sequence[int] | np.ndarray, groups: np.ndarray | None = None
) -> Choice:
    """Compare the methods that suit the labels on each CLIP, and return all, the best first.

    Labelled images with the same features, and the same label, are copies and count once.

    Args:
        spaces: of the same N images and K classes under each CLIP.
        labels: (N,), from 0, and -1 for unlabelled images.
        groups: (N,), images that must share a fold, such as frames of one film, besides
            near-copies.
    """
    every, K = np.asarray(labels), len(spaces[0].text)
    rows = _without_copies(spaces, every)
    need(
        len(rows) > 1,
        f"{(every >= 0).sum()} of {len(every):,} images have a label: label at least two different "
        "ones to compare methods",
    )
    y, counts = every[rows], np.bincount(every[rows], minlength=K)
    group = near_copies(spaces, rows, y)
    group = group if groups is None else join(group, groups[rows])
    m = np.median(counts)
    fold = folds(y, group, MOST if m < 2 else min(MOST, int(m)))
    held_out = [fold == part for part in range(fold.max() + 1)]
    candidates = []
    for number, space in enumerate(spaces):
        zero_shot = int((space.zero_shot()[rows].argmax(1) == y).sum())
        shared = space.span(rows)
        for method in methods_for(counts):
            nodes = COMPARED.get(method, [{}])
            each = np.empty((len(nodes), len(y), K))
            for held in held_out:
                each[:, held] = shared.logits_with(nodes, method, rows[~held], y[~held], rows[held])
            for node, x in zip(nodes, each, strict=True):
                right, fitted = int((x.argmax(1) == y).sum()), fit_temperature(x, y, TEMPERATURES)
                one = Candidate(space.name, method, number, x, right, *fitted, zero_shot, node)
                candidates.append(one)
    choice = Choice(candidates, rows, y, group, fold, counts, find_judged(y, fold))
    candidates.sort(key=lambda c: (0 if choice.blind else -c.right, c.loss))
    return choice


def _without_copies(spaces: Sequence[Space], labels: np.ndarray) -> np.ndarray:
    first: dict[tuple[int, bytes], int] = {}
    for row in np.flatnonzero(labels >= 0).tolist():
        content = sha256(b"".join(space.images[row].numpy().tobytes() for space in spaces))
        first.setdefault((labels[row], content.digest()), row)
    return np.array([*first.values()], int)


def find_judged(labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return which images, (n,), have their class in another fold, too, given labels and folds.

    Examples:
        >>> find_judged(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])).tolist()
        [True, True, False, False]
    """
    of_folds = np.unique([labels, fold], axis=1)[0]  # a class as often as there are folds with it
    judged: np.ndarray = np.bincount(of_folds)[labels] > 1
    return judged


def methods_for(counts: np.ndarray) -> tuple[str, ...]:
    """Return the methods to compare, given the labels of each class, (K,)."""
    if counts.min() == 0:
        return ("CLAP",)
    return ("LPPlusPlus",) if np.median(counts) < FEW else ("LPPlusPlus", "GDA")
