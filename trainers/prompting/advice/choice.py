"""The choice of a CLIP and a method by out-of-fold answers.

Letters: N images, n of them labelled, K classes, m the median number of labels of a class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from scipy.special import softmax

from ..record.calibration import fit_temperature
from .fits import COMPARED, Space
from .folds import MOST, folds, join, near_copies, of_one_group

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
    plain: np.ndarray | None = None  # (n,), which are right in folds that divide series


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
    series: np.ndarray  # (n,), groups, also of a class whose images are all of one

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
    def weights(self) -> np.ndarray:
        """What each image counts for, (n,): if a class has more than half, classes count alike."""
        most = 2 * self.counts.max() > len(self.labels)
        return 1 / self.counts[self.labels] if most else np.ones(len(self.labels))

    def share(self, one: Candidate) -> float:
        """Return the share of right answers of a candidate, by weights."""
        return float(np.average(one.logits.argmax(1) == self.labels, weights=self.weights))

    @property
    def in_series(self) -> bool:
        """True if a series has two labels."""
        return len(np.unique(self.series)) < len(self.series)

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
    rows = without_copies(spaces, every, np.flatnonzero(every >= 0))
    y, counts = every[rows], np.bincount(every[rows], minlength=K)
    series = near_copies(spaces, rows, y)
    # where all images of a class would be one group, they just look alike, and stay apart
    group = np.where(of_one_group(series, y), len(y) + np.arange(len(y)), series)
    if groups is not None:
        series, group = (join(x, groups[rows]) for x in (series, group))
    m = np.median(counts)
    parts = MOST if m < 2 else min(MOST, int(m))
    fold = folds(y, group, parts)
    choice = Choice([], rows, y, group, fold, counts, ~of_one_group(fold, y), series)
    plain = folds(y, np.arange(len(y)), parts) if choice.in_series and m >= FEW else None
    for number, space in enumerate(spaces):
        zero_shot = int((space.zero_shot()[rows].argmax(1) == y).sum())
        shared = space.span(rows)
        for method in methods_for(counts):
            nodes = COMPARED.get(method, [{}])
            each = _answer(shared, method, nodes, rows, y, fold)
            other = plain if plain is None else _answer(shared, method, nodes, rows, y, plain)
            for i, (node, x) in enumerate(zip(nodes, each, strict=True)):
                right, fitted = int((x.argmax(1) == y).sum()), fit_temperature(x, y, TEMPERATURES)
                hits = None if other is None else other[i].argmax(1) == y
                one = Candidate(
                    space.name, method, number, x, right, *fitted, zero_shot, node, hits
                )
                choice.candidates.append(one)
    choice.candidates.sort(key=lambda c: (0 if choice.blind else -choice.share(c), c.loss))
    return choice


def choose_classes(
    spaces: Sequence[Space], labels: np.ndarray, groups: np.ndarray | None = None
) -> tuple[Choice, np.ndarray]:
    """Return what `choose` does, and the numbers of its classes: all, or those with labels.

    Without the others, more methods are compared. That is taken if it is right on more, by over the
    share of the classes that it never answers.
    """
    choice, K = choose(spaces, labels, groups), len(spaces[0].text)
    kept = np.flatnonzero(choice.counts)
    if 1 < len(kept) < K:
        new = np.where(labels < 0, -1, np.searchsorted(kept, labels))
        some = choose([replace(x, text=x.text[kept]) for x in spaces], new, groups)
        if some.share(some.best) - choice.share(choice.best) > 1 - len(kept) / K:
            return some, kept
    return choice, np.arange(K)


def _answer(
    space: Space, method: str, nodes: Any, rows: np.ndarray, y: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Return logits of each fold by fits to the others, with each of S settings, (S, n, K)."""
    each = np.empty((len(nodes), len(y), len(space.text)))
    for part in range(fold.max() + 1):
        held = fold == part
        each[:, held] = space.logits_with(nodes, method, rows[~held], y[~held], rows[held])
    return each


def without_copies(spaces: Sequence[Space], labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows without those whose features and labels an earlier one has."""
    first: dict[tuple[bytes, bytes], int] = {}
    for row in rows.tolist():
        content = sha256(b"".join(space.images[row].numpy().tobytes() for space in spaces))
        first.setdefault((labels[row].tobytes(), content.digest()), row)
    return np.array([*first.values()], int)


def methods_for(counts: np.ndarray) -> tuple[str, ...]:
    """Return the methods to compare, given the labels of each class, (K,)."""
    if counts.min() == 0:
        return ("CLAP",)
    return ("LPPlusPlus",) if np.median(counts) < FEW else ("LPPlusPlus", "GDA")
