"""Prediction sets of an evaluation: their coverage, size and gap by class (docs/metrics.md).

A set has the classes whose score is at most a threshold, which comes from labelled images: LAC
(Sadinle et al. 2019, arXiv:1609.00451), APS (Romano et al. 2020, arXiv:2006.02544) and RAPS
(Angelopoulos et al. 2021, arXiv:2009.14193). Conf-OT (Silva-Rodriguez et al., CVPR 2025,
arXiv:2505.24693) transports the probabilities of all images first.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..transport.scalings import LogScalings
from .predictions import Predictions

SCORES = ("lac", "aps", "raps")
DRAWS = 20  # of calibration images, and of the random part of scores
PENALTY, FREE_RANKS = 0.001, 1  # of RAPS: lambda, and k_reg, the ranks without it
OT_UPDATES = 3


class SetPredictions(Predictions):
    """Predictions that keep the logits, to measure prediction sets; `test` is the node TEST.

    Attributes:
        validation: logits (n, K) and labels (n,), if CONFORMAL_SHARE is 0.
    """

    def __init__(self, test, scale: Tensor | float = 1.0, new: bool = False):
        super().__init__(scale, new)
        self._test = test

    def add_logits(
        self, logits: Tensor, others: Tensor | None = None, in_union: Tensor | None = None
    ) -> None:
        """Add the logits of a batch, as `Predictions` does, and keep them."""
        super().add_logits(logits, others, in_union)
        self._columns["logits"].append(logits.float())

    def columns(self) -> dict[str, list[str] | Tensor]:
        """Return the columns, as `Predictions` does; measure the sets and print the measures."""
        columns = super().columns()
        logits, labels = columns.pop("logits"), columns["label"]
        assert isinstance(logits, Tensor) and isinstance(labels, Tensor)
        self.more = self._measure(logits, labels.long())
        return columns

    def _measure(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return `set_coverage` and `set_gap` (%), and `set_size`: medians over the draws."""
        test, kind, alpha = self._test, self._test.CONFORMAL, self._test.CONFORMAL_ALPHA
        share, transported = test.CONFORMAL_SHARE, test.CONFORMAL_OT
        fixed, source = None, f"{share:.0%} of the test images"
        if not share:
            assert self.validation is not None, "the run was checked"
            known, of_known = map(torch.from_numpy, self.validation)
            logits, labels = torch.cat([known.float(), logits]), torch.cat([of_known, labels])
            fixed, source = torch.arange(len(labels)) < len(known), "the validation images"
        if not logits.isfinite().all():
            print("Prediction sets are left out: logits of validation images are not finite")
            return {}
        measured = []
        for draw in range(DRAWS):
            generator = torch.Generator().manual_seed(draw)
            chosen = draw_images(labels, share, generator) if fixed is None else fixed
            if transported or not draw:
                p = transport(logits, labels[chosen]) if transported else logits.softmax(1)
                whole = scores(p, kind)
            drawn = whole
            if kind != "lac":
                drawn = whole - torch.rand(p.shape, generator=generator) * p
            own = drawn[chosen].gather(1, labels[chosen, None])[:, 0]
            sets = drawn[~chosen] <= threshold(own, alpha)
            measured.append(measure(sets, labels[~chosen], alpha))
        coverage, size, gap = np.median(measured, axis=0).tolist()
        print(
            f"Prediction sets ({kind}{', Conf-OT' * transported}; {100 - 100 * alpha:.4g}% asked, "
            f"by {source}): coverage {coverage:.2f}%, {size:.2f} classes, gap by class {gap:.2f}%"
        )
        return {"set_coverage": coverage, "set_size": size, "set_gap": gap}


def draw_images(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return a mask (n,) of a share of the images of each class, and of at least one of each."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for k in labels.unique():
        rows = (labels == k).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator)
        chosen[rows[order[: max(1, int(share * len(rows)))]]] = True
    return chosen


def scores(p: Tensor, kind: str) -> Tensor:
    """Return the score of each class, (n, K), low where it is likely, from probabilities (n, K).

    From those of `aps` and `raps` a random part of p is taken away, u p with u uniform.
    """
    if kind == "lac":
        return 1 - p
    falling, order = p.sort(1, descending=True)
    total = falling.cumsum(1)
    if kind == "raps":
        total += PENALTY * (torch.arange(1, p.shape[1] + 1) - FREE_RANKS).clamp(min=0)
    return torch.empty_like(p).scatter_(1, order, total)


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


def transport(logits: Tensor, labels: Tensor) -> Tensor:
    """Return probabilities (n, K) of n images that have the class shares of these labels nearly.

    They are the rows of a transport plan between images and classes, after few updates.
    """
    n, K = logits.shape
    shares = torch.bincount(labels, minlength=K) / len(labels)
    each = torch.full((1, 1, n), 1 / n)
    scalings = LogScalings.of(logits[None].clone(), shares[None, None], each)
    v = scalings.start()
    for _ in range(OT_UPDATES):
        u = scalings.u(v)
        v = scalings.v(scalings.w(u))
    return scalings.plan(u, v)[0] * n


def measure(sets: Tensor, labels: Tensor, alpha: float) -> tuple[float, float, float]:
    """Return coverage (%), mean size and gap (%) of the sets (n, K) of images with labels (n,).

    The gap is the mean over classes of |coverage of the class - (1 - alpha)|.
    """
    covered = sets.gather(1, labels[:, None])[:, 0].float()
    counts = labels.bincount(minlength=sets.shape[1])
    by_class = (labels.bincount(covered, sets.shape[1]) / counts)[counts > 0]
    gap = (by_class - (1 - alpha)).abs().mean()
    return 100 * float(covered.mean()), float(sets.sum(1).float().mean()), 100 * float(gap)
