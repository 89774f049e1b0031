"""Answers with a chosen error: a class, several classes, or none of them (docs/use.md).

Letters: n labelled images that nothing else has read, B other images, K classes, D features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import need
from ..images.class_folders import NONE, SEVERAL

LARGER = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # errors that are named where most answers are SEVERAL
BOUNDS = (-3.0, 3.0)  # of the natural logarithm of a temperature
UNLUCKY = 0.05  # share of calibrations that are worse than what is said of bad luck


class Answer(NamedTuple):
    """The answer to an image.

    answer: a class, SEVERAL, or NONE; classes: those that it may be of, likeliest first, none with
    NONE; p: their probabilities; likeness: the largest centred cosine with a class, or None.
    """

    answer: str
    classes: list[str]
    p: list[float]
    likeness: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature and thresholds for the probabilities of a run, by n labelled images.

    Attributes:
        temperature: which the logits are divided by.
        scores: (n,), LAC scores (1 - p; Sadinle et al. 2019, arXiv:1609.00451) of the images for
            their own classes, rising.
        seconds: (n,), those of their second-likeliest classes, rising.
        effective: the number of independent images that these are worth; None if all are.
        likeness: (n,), their largest centred cosines, rising, if the run has them; then also
        ranks: (n,), of each image the larger of its ranks among the scores and, from above, among
            the likenesses, from 1; rising.
        centre, classes: as from `centre_and_classes`.
        strangers: likenesses of images whose class was left out, rising, if that was measured.
    """

    temperature: float
    scores: Tensor
    seconds: Tensor
    effective: float | None = None
    likeness: Tensor | None = None
    ranks: Tensor | None = None
    centre: Tensor | None = None
    classes: Tensor | None = None
    strangers: Tensor | None = None

    @classmethod
    def fit(
        cls, logits: Tensor, labels: Tensor, temperature: float, likeness: Tensor | None = None
    ) -> "Calibration":
        """Return that of logits (n, K) at a temperature, with labels and likeness (n,)."""
        every = 1 - (logits.float() / temperature).softmax(1)
        own = every.gather(1, labels[:, None])[:, 0]
        one = cls(temperature, own.sort().values, every.kthvalue(2).values.sort().values)
        if likeness is None:
            return one
        both = torch.stack([own.argsort(stable=True), (-likeness).argsort(stable=True)])
        ranks = 1 + both.argsort(1).amax(0).sort().values
        return replace(one, likeness=likeness.sort().values, ranks=ranks)

    def threshold(self, error: float) -> float:
        """Return the largest LAC score, 1 - p, of a class in an answer that is never NONE."""
        return min(threshold(self.scores, error), 1.0)

    def limits(self, error: float) -> tuple[float, float]:
        """Return the largest LAC score of a class in an answer, and the least likeness.

        An image lacks its class if either fails, so that both spend one error: of n images, all but
        a share `error` have both ranks at most R.
        """
        if self.ranks is None or self.likeness is None:
            return self.threshold(error), -1.0
        if math.isinf(R := threshold(self.ranks, error)):  # too few: all classes
            return 1.0, -1.0
        return float(self.scores[int(R) - 1]), float(self.likeness[-int(R)])

    def answers(
        self, logits: Tensor, z: Tensor, error: float, classnames: Sequence[str]
    ) -> list[Answer]:
        """Return the answers to B images, given logits (B, K), features (B, D) and K names."""
        limit, least = self.limits(check_error(error))
        p = (logits.float() / self.temperature).softmax(1).cpu()
        kept = (1 - p <= limit) | (p == p.amax(1, keepdim=True))  # never empty
        cosines = [None] * len(p)
        if self.centre is not None and self.classes is not None:
            cosines = likeness(z, self.centre, self.classes).tolist()
        answers = []
        for row, inside, cosine in zip(p, kept, cosines, strict=True):
            best = row.argsort(descending=True, stable=True)
            best = best[inside[best]] if cosine is None or cosine >= least else best[:0]
            names = [classnames[k] for k in best.tolist()]
            answer = names[0] if len(names) == 1 else SEVERAL if names else NONE
            answers.append(Answer(answer, names, row[best].tolist(), cosine))
        return answers

    def most_lacking(self, error: float) -> float:
        """Return the share of images lacking their class that few calibrations exceed: UNLUCKY.

        Given one calibration by n independent images, coverage is Beta(n + 1 - l, l), where l is
        the number of images beyond the threshold, and one (Vovk 2012, arXiv:1209.2673).
        """
        from scipy.stats import beta  # slow to import

        n = len(self.scores)
        share = int((n + 1) * error + 1e-9) / (n + 1)
        of = (n if self.effective is None else self.effective) + 1
        return float(1 - beta.ppf(UNLUCKY, of * (1 - share), of * share)) if share else 0.0

    def share_of_several(self, error: float) -> float:
        """Return the share of the images whose answer has several classes."""
        return float((self.seconds <= self.limits(error)[0]).float().mean())

    def share_of_strangers(self, error: float) -> float | None:
        """Return the share of images of a class that is left out that are NONE, if measured."""
        if self.strangers is None:
            return None
        return float((self.strangers < self.limits(error)[1]).float().mean())

    def promise(self, error: float) -> str:
        """Return sentences that say what answers with this error promise, and what they do not."""
        n = len(self.scores)
        if math.isinf(threshold(self.scores, error)):
            least = math.ceil((1 - error) / error - 1e-9)
            most = math.ceil(100 / (n + 1)) / 100
            return (
                f"{n:,} images calibrated this run. With fewer than {least:,} of them, every "
                f"answer has all classes at an error of {error:g}: take {most:g} or more, or label "
                "more images."
            )
        lines = [
            f"About {100 * error:.3g}% of images like the {n:,} that calibrated "
            "this run lack their class in the answer; with bad luck (once in "
            f"{1 / UNLUCKY:g} times), {100 * self.most_lacking(error):.0f}% or more. Of a single "
            "class, or where classes have other shares than then, it may be more."
        ]
        if (several := self.share_of_several(error)) > 0.5:
            larger = ((e, self.share_of_several(e)) for e in LARGER if e > error)
            found = [f"; with an error of {e:.0%}, {x:.0%}" for e, x in larger if x <= 0.5]
            lines.append(f"{several:.0%} of answers name several classes{''.join(found[:1])}.")
        if (strange := self.share_of_strangers(error)) is not None:
            lines.append(
                f"When a class was left out, {100 * strange:.0f}% of its images were '{NONE}'."
            )
        return " ".join(lines)


def threshold(own: Tensor, alpha: float) -> float:
    """Return the k-th smallest score, k = ceil((n + 1)(1 - alpha)); infinity if k > n.

    `own` (n,) are scores of images for their own class. A new image's score for its class is at
    most this with a probability of at least 1 - alpha.

    Examples:
        >>> threshold(torch.arange(19.0), 0.1)  # k = 18
        17.0
        >>> threshold(torch.arange(8.0), 0.1)  # k = 9
        inf
    """
    k = math.ceil((len(own) + 1) * (1 - alpha) - 1e-9)  # 1e-9: for what binary fractions miss
    return float(own.kthvalue(k).values) if k <= len(own) else math.inf


def centre_and_classes(z: Tensor, labels: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return a centre (D,), and a centred direction of each class (K, D).

    They are of image features (n, D) with labels (n,), and of text features (K, D).
    """
    x, t = F.normalize(z.float(), dim=-1), F.normalize(text.float(), dim=-1)
    centre = x.mean(0)
    sums = F.normalize(t - t.mean(0), dim=-1)
    sums = sums.index_add(0, labels, F.normalize(x - centre, dim=-1))
    return centre, F.normalize(sums, dim=-1)


def likeness(z: Tensor, centre: Tensor, classes: Tensor) -> Tensor:
    """Return the largest centred cosine of image features (B, D) with a class, (B,)."""
    x = F.normalize(z.float(), dim=-1)
    return (F.normalize(x - centre.to(x), dim=-1) @ classes.to(x).T).amax(1)


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, bounds: tuple[float, float] = BOUNDS
) -> tuple[float, float]:
    """Return the temperature with the least mean cross-entropy, and that cross-entropy.

    Args:
        logits: (n, K), float64.
        labels: (n,).
        bounds: of the natural logarithm of the temperature.

    Examples:
        >>> of_four = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
        >>> [round(x, 2) for x in fit_temperature(*of_four)]
        [3.64, 0.56]
    """
    from scipy.optimize import minimize_scalar  # slow to import
    from scipy.special import log_softmax

    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def check_error(error: float) -> float:
    """Return an error; raises UserError if it is not between 0 and 1."""
    need(0 < error < 1, f"The error is {error}, but must be between 0 and 1: take 0.05")
    return error
