"""Tags of images with several labels: thresholds, and what may be said of the tags they give.

Letters: n labelled images, K names, s scores (n, K), y labels (n, K): 1, 0, and -1 where unknown.
A name is a tag of an image if its score is at least the threshold of the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

EVEN = 0.5  # the threshold of probabilities, where too few images could choose one
CHOSEN_FROM = 20  # images from which a threshold of probabilities is chosen, and a share is said
FOLDS_FROM = 100  # images from which folds choose between one threshold and one for each name
PRIOR = 5  # positives that the threshold of all names counts for in that of one
SURE_FROM = 50  # images from which `find_sure` may find something
GOAL, DELTA = 0.9, 0.05  # share of right tags, and how often this may be broken
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds of K names, for scores of one method.

    Attributes:
        best: (K,), those with the best F1 of all tags.
        sure: (K,), those at which GOAL of the tags are right with confidence 1 - DELTA; or None.
        found: the share of labels that `sure` finds; 0 without it.
    """

    best: np.ndarray
    sure: np.ndarray | None = None
    found: float = 0.0

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Thresholds":
        """Return those of a checkpoint."""
        best, sure = content["best"], content["sure"]
        own = None if sure is None else sure.double().numpy()
        return cls(best.double().numpy(), own, content["found"])

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        sure = None if self.sure is None else torch.from_numpy(self.sure)
        return {"best": torch.from_numpy(self.best), "sure": sure, "found": self.found}


def best_threshold(s: np.ndarray, y: np.ndarray) -> float:
    """Return the threshold of scores (m,) with the best F1 for labels (m,) of 1 and 0.

    It lies in the middle between two scores. Without a label of 1 it is above all scores.

    Examples:
        >>> best_threshold(np.array([0.1, 0.8, 0.6]), np.array([0, 1, 1]))
        0.35
    """
    if not y.any():
        return float(np.nextafter(s.max(initial=0.0), np.inf))
    order = np.argsort(-s, kind="stable")
    s, right = s[order], np.cumsum(y[order])
    f1 = 2 * right / (np.arange(1, len(s) + 1) + right[-1])
    f1[:-1][s[1:] == s[:-1]] = -1  # a threshold divides no ties
    i = int(f1.argmax())
    return float(s[i : i + 2].mean()) if i + 1 < len(s) else float(s[i])


def choose_thresholds(
    s: np.ndarray, y: np.ndarray, decides: bool, number: int | None = None
) -> np.ndarray:
    """Return a threshold for each name, (K,).

    Where classes' levels differ (scores that only rank), each name's own is drawn to that of all
    names. Probabilities have one for all names: EVEN with few images, and with many, folds choose
    between the two.

    Args:
        s: (n, K).
        y: (n, K).
        decides: True if the scores are probabilities.
        number: of images that the rule is for, if not n: as for all in each fold.
    """
    number, K = number or len(s), s.shape[1]
    if decides and number < CHOSEN_FROM:
        return np.full(K, EVEN)
    if not decides:
        return _of_each(s, y)
    if number < FOLDS_FROM:
        return _of_all(s, y)
    fold = _folds(len(s))
    f1 = []
    for rule in (_of_all, _of_each):
        given = np.zeros(s.shape, bool)
        for part in range(FOLDS):
            held = fold == part
            given[held] = s[held] >= rule(s[~held], y[~held])
        f1.append(2 * (given & (y == 1)).sum() / (given[y >= 0].sum() + (y == 1).sum()))
    return _of_all(s, y) if f1[0] >= f1[1] else _of_each(s, y)


def _of_all(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the same threshold for each name, (K,)."""
    return np.full(s.shape[1], best_threshold(s[y >= 0], y[y >= 0]))


def _of_each(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each name's own threshold, drawn to that of all names the more the fewer it has."""
    found = _of_all(s, y)
    for k in np.flatnonzero((y == 1).any(0)):
        known, m = y[:, k] >= 0, (y[:, k] == 1).sum()
        found[k] = (m * best_threshold(s[known, k], y[known, k]) + PRIOR * found[k]) / (m + PRIOR)
    return found


def above_thresholds(s: np.ndarray, y: np.ndarray, decides: bool, fold: np.ndarray) -> np.ndarray:
    """Return scores less the thresholds of the other folds, (n, K); fold (n,) counts from 0."""
    margins = np.empty_like(s)
    for part in np.unique(fold):
        held = fold == part
        margins[held] = s[held] - choose_thresholds(s[~held], y[~held], decides, len(s))
    return margins


def share_right(given: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """Return the share of given tags (n, K) that are right, and an interval that holds 95%.

    None with fewer than CHOSEN_FROM images, or without a tag. The interval is Clopper's and
    Pearson's, of half as many tags as these are worth: tags of one image are alike, and the
    thresholds would be others with other images.
    """
    from scipy.stats import beta  # slow to import

    right, tags = (given & (y == 1)).sum(1), (given & (y >= 0)).sum(1)
    n, number = len(y), int(tags.sum())
    if n < CHOSEN_FROM or not number:
        return None
    p = right.sum() / number
    by_chance = p * (1 - p) * number
    worth = number / 2
    if by_chance:
        worth /= max(1.0, ((right - p * tags) ** 2).sum() * n / (n - 1) / by_chance)
    k, m = p * worth, worth
    low = beta.ppf(0.025, k, m - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, m - k) if k < m else 1.0
    return float(p), float(low), float(high)


def find_sure(values: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return the least value at which GOAL of the tags are right, and the share of labels found.

    With confidence 1 - DELTA, by binomial tests in a fixed sequence from the largest values on
    (Angelopoulos et al., 2021, arXiv:2110.01052), up to the first that fails; None if that is the
    first, or with fewer than SURE_FROM images.

    Args:
        values: (n, K), scores or what they are above thresholds.
        y: (n, K).
    """
    from scipy.stats import binom  # slow to import

    n, known = len(y), y >= 0
    if n < SURE_FROM:
        return None
    order = np.argsort(-values[known], kind="stable")
    v, right = values[known][order], np.cumsum(y[known][order])
    number = np.arange(1, len(v) + 1)
    tested = number >= max(29, n / 2)  # of fewer tags, not even all right ones pass
    tested[:-1] &= v[1:] < v[:-1]
    steps = np.flatnonzero(tested)
    fails = binom.sf(right[steps] - 1, number[steps], GOAL) > DELTA
    passed = int(fails.argmax()) if fails.any() else len(steps)
    if not passed or not right[-1]:
        return None
    last = steps[passed - 1]
    return float(v[last]), float(right[last] / right[-1])


def fit_thresholds(
    s: np.ndarray, y: np.ndarray, decides: bool, fold: np.ndarray | None = None
) -> tuple[Thresholds, np.ndarray]:
    """Return the thresholds of scores, and what scores are above other folds' ones, (n, K).

    Args:
        s: (n, K), finite; of images that the method has not seen.
        y: (n, K).
        decides: True if the scores are probabilities.
        fold: (n,), from 0; by default, FOLDS at random.
    """
    fold = _folds(len(s)) if fold is None else fold
    margins = above_thresholds(s, y, decides, fold)
    best = choose_thresholds(s, y, decides)
    found = find_sure(s if decides else margins, y)
    sure = None
    if found:
        sure = np.full(len(best), found[0]) if decides else best + found[0]
    return Thresholds(best, sure, found[1] if found else 0.0), margins


def _folds(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n) % FOLDS


def sentences(thresholds: Thresholds, given: np.ndarray, y: np.ndarray) -> list[str]:
    """Return what may be said of the tags of new images that come as these (n, K) did."""
    said = []
    if shares := share_right(given, y):
        p, low, high = (f"{100 * x:.0f}" for x in shares)
        said.append(f"By folds, about {p} of 100 tags were right (95%: {low} to {high}).")
    if thresholds.sure is not None:
        said.append(
            f"With `--sure` and 95% confidence, at least {100 * GOAL:.0f}% of the tags it gives "
            f"are right; it finds about {100 * thresholds.found:.0f}% of the labels."
        )
    return said
