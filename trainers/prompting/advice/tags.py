"""The choice of a CLIP and a method for images with several labels, by mAP out of folds.

Letters: N images, n of them labelled, K names; labels are 1, 0, and -1 where unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from ..errors import need
from ..images.class_folders import some
from ..record.several import average_precisions
from ..record.thresholds import Thresholds, fit_thresholds, sentences
from .choice import without_copies
from .fits import COMPARED, Space
from .folds import MOST, folds, join, near_copies

ZERO_SHOT, FITTED = "ZeroshotCLIP", "LinearProbe"


@dataclass(frozen=True, eq=False)
class Tagger:
    """A method on a CLIP, and its scores of labelled images that it had not seen."""

    clip: str
    method: str
    number: int  # of the CLIP among those that were given
    logits: np.ndarray  # (n, K)
    map: float  # %
    settings: Mapping[str, float]

    @property
    def decides(self) -> bool:
        """True if sigmoids of the logits are probabilities."""
        return self.method == FITTED

    @property
    def scores(self) -> np.ndarray:
        """What is compared with thresholds, (n, K): probabilities, or logits that only rank."""
        scores: np.ndarray = expit(self.logits) if self.decides else self.logits
        return scores


@dataclass(frozen=True, eq=False)
class TagChoice:
    """The candidates, best first, and the n labelled images on which they were compared."""

    candidates: list[Tagger]
    rows: np.ndarray  # (n,)
    labels: np.ndarray  # (n, K)
    fold: np.ndarray  # (n,), from 0

    @property
    def best(self) -> Tagger:
        """The candidate to take."""
        return self.candidates[0]

    @cached_property
    def fitted(self) -> tuple[Thresholds, np.ndarray]:
        """The best one's thresholds, and what its scores are above those of other folds, (n, K)."""
        best = self.best
        return fit_thresholds(best.scores, self.labels, best.decides, self.fold)

    @property
    def given(self) -> np.ndarray:
        """The tags that thresholds of the other folds give, (n, K)."""
        given: np.ndarray = self.fitted[1] >= 0
        return given

    def sentences(self) -> list[str]:
        """Return the advice, and what may be said of the tags."""
        best = self.best
        zero = max(one.map for one in self.candidates if one.method == ZERO_SHOT)
        share = ((self.labels == 1).sum(0) / (self.labels >= 0).sum(0)).mean()
        return [
            f"Take {best.method} on {best.clip}: mAP {best.map:.1f}% on {len(self.labels):,} "
            f"labelled images that it had not seen (zero-shot {zero:.1f}%, guessing about "
            f"{100 * share:.1f}%).",
            *sentences(self.fitted[0], self.given, self.labels),
        ]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of labels found and of right tags as thresholds fall, in 0 to 1."""
        known, best = self.labels >= 0, self.best
        values = (best.scores if best.decides else self.fitted[1])[known]
        right = np.cumsum(self.labels[known][np.argsort(-values, kind="stable")])
        return right / right[-1], right / np.arange(1, len(right) + 1)

    def names(self, i: int, every: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the tags that the image gets, and its labels; `?` is before unknown ones."""
        marks = {1: "", -1: "?"}
        given = [name for name, one in zip(every, self.given[i], strict=True) if one]
        labels = zip(every, self.labels[i].tolist(), strict=True)
        return given, [marks[value] + name for name, value in labels if value]

    def most_wrong(self) -> np.ndarray:
        """Return the images as numbers below n, those with most wrong tags first."""
        wrong = (self.given != (self.labels == 1)) & (self.labels >= 0)
        order: np.ndarray = np.argsort(-wrong.sum(1), kind="stable")
        return order[: int(wrong.any(1).sum())]


def choose_tags(
    spaces: Sequence[Space], labels: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> TagChoice:
    """Compare zero-shot CLIP and regressions on each CLIP, and return all, the best first.

    Args:
        spaces: of the same N images and K names under each CLIP.
        labels: (N, K).
        groups: (N,), images that must share a fold, besides near-copies with a label in common.
        names: K names.
    """
    rows = without_copies(spaces, labels, np.arange(len(labels)))
    y = labels[rows]
    for value, where in ((1, "in none"), (0, "in all")):
        lacking = [name for name, has in zip(names, (y == value).any(0), strict=True) if not has]
        need(
            not lacking,
            f"Nothing can be learned of what is {where} of the {len(y):,} labelled images: "
            f"{some(lacking)}. Leave these labels out, or add images",
        )
    group = join(near_copies(spaces, rows, y), groups[rows])
    frequency = np.where(y == 1, (y == 1).sum(0), len(y) + 1)
    rarest = np.where((y == 1).any(1), frequency.argmin(1), y.shape[1])
    fold = folds(rarest, group, MOST)
    candidates = []
    for number, space in enumerate(spaces):
        found: list[tuple[str, Any, np.ndarray]] = [(ZERO_SHOT, {}, space.zero_shot()[rows])]
        shared = space.span(rows)
        for node in COMPARED[FITTED]:
            logits = np.empty(y.shape)
            for part in range(fold.max() + 1):
                held = fold == part
                model = shared.fit(FITTED, rows[~held], y[~held], several=True, **node)
                logits[held] = shared.answers(model, rows[held])
            found.append((FITTED, node, logits))
        for method, node, logits in found:
            score = 100 * float(average_precisions(y, logits).mean())
            candidates.append(Tagger(space.name, method, number, logits, score, node))
    candidates.sort(key=lambda one: -one.map)
    return TagChoice(candidates, rows, y, fold)
