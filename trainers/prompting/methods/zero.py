"""ZERO (Farina et al., NeurIPS 2024; arXiv:2405.18330).

Frustratingly Easy Test-Time Adaptation of Vision-Language Models.

Letters: B images in V views, K classes.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
import torch.nn.functional as F

from ..capabilities.of_views import OfViews
from ..checkpoint.public import Public
from ..node import Fraction, From1
from ..registry import register
from ..sure_views import count_share, entropy

TEMPERATURE = 2.0**-10  # the machine epsilon of float16


@register
class ZERO(OfViews):
    """A vote of the surest views of an image; nothing is learned.

    Of V views (x_0 plain, the others random crops and flips) with cosines c_v = x_v . h, the k =
    int(V GAMMA) of least entropy H(softmax(s c_v)) are kept. Each votes for the class of its
    largest cosine, and the logits are the votes, so that probabilities, calibration and top-5
    accuracy mean little. If classes tie, the other views follow by entropy, and the first whose
    class is among the tied ones adds its vote. If there is none, the tied class with the best
    cosine in view k + 1 gets it.

    FORM `paper` is this. `released` is what the public code computes on a GPU: cosines are rounded
    to float16, and once more when they are scaled for H. So its zero temperature, the machine
    epsilon, is 2^-10, and a view votes with softmax(c_v / 2^-10): a lead of 0.1 logits (s = 100) is
    a vote of 0.74. Exact ties become rare; where no view breaks one, its mask counts classes from
    the last one.

    **Published.** NUM_VIEWS (V) 64, GAMMA 0.3, the same for all data sets; CTX_INIT `a photo of a`.
    """

    node = "ZERO"
    public = Public(folder="zero")
    test_views = property(attrgetter("settings.NUM_VIEWS"))

    @dataclass(frozen=True)
    class Settings(OfViews.Settings):
        """The keys of the node."""

        NUM_VIEWS: From1 = 64
        GAMMA: Fraction = 0.3
        FORM: Literal["paper", "released"] = "paper"

    settings: Settings

    def from_views(self, x, h):
        """Return the votes (B, K)."""
        return self.votes(x @ h.T)

    def votes(self, c: torch.Tensor) -> torch.Tensor:
        """Return the votes (B, K) of views with cosines c (B, V, K)."""
        released, (_, V, K) = self.settings.FORM == "released", c.shape
        logits = self.logit_scale * c
        if released:  # each rounded to float16, as under autocast
            logits, c = (c.half() / (1 / self.logit_scale)).float(), c.half().float()
        order = entropy(logits).argsort(dim=-1, stable=True)
        c, k = c.take_along_dim(order[..., None], 1), count_share(V, self.settings.GAMMA)
        classes = c.argmax(-1)  # (B, V)
        kept = (c[:, :k] / TEMPERATURE).softmax(-1) if released else F.one_hot(classes[:, :k], K)
        votes = kept.float().sum(1)
        tied = votes == votes.amax(1, keepdim=True)
        rest = tied.gather(1, classes[:, k:])  # by entropy, if the view's class is tied
        next_view = classes[:, k:].gather(1, rest.int().argmax(1, keepdim=True))
        mask = tied.flip(1) if released else ~tied
        last = c[:, k].masked_fill(mask, -torch.inf).argmax(1, keepdim=True)
        winner = torch.where(rest.any(1, keepdim=True), next_view, last)
        several = tied.sum(1, keepdim=True) > 1
        return votes.scatter_add(1, winner, several.float())
