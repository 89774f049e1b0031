"""MTA (Zanella and Ben Ayed, CVPR 2024; arXiv:2405.02266).

On the Test-Time Zero-Shot Generalization of Vision-Language Models: Do We Really Need Prompt
Learning?

Letters: B images in V views, K classes.
"""

from dataclasses import dataclass
from operator import attrgetter

import torch
import torch.nn.functional as F

from ..capabilities.of_views import OfViews
from ..checkpoint.public import Public
from ..node import Fraction, From1, NotNegative, Positive
from ..registry import register
from ..sure_views import count_share

NEAR = 1e-6  # smaller changes end a loop
INNER = 5  # most updates in a loop


@register
class MTA(OfViews):
    """A robust mean of the views of an image, by mean shift with a weight for each view.

    x_v are the features of V views (x_0 plain, the others random crops and flips), p_v = softmax(s
    x_v . h), A_vw = p_v . p_w, and b_v^2 half the mean squared distance of x_v to its
    int(BANDWIDTH_P (V - 1)) nearest other views. With g_v(m) = exp(-|x_v - m|^2 / (2 b_v^2)), from
    weights y_v = 1 / V and m = x_0, MAX_ITER times:

        y = softmax((g(m) + LAMBDA_Q A y) / LAMBDA_Y)
        m = n(sum_v g_v(m) y_v x_v)

    each until it changes by less than 1e-6, at most five times. The logits are s m . h. Nothing is
    learned. Images are classified several at a time, which changes nothing.

    **Published.** BATCH_SIZE (V) 64, CTX_INIT `a photo of a`, the same for all data sets.
    """

    node = "MTA"
    public = Public(folder="mta")
    test_views = property(attrgetter("settings.BATCH_SIZE"))

    @dataclass(frozen=True)
    class Settings(OfViews.Settings):
        """The keys of the node; the last two are constants of the public code."""

        BATCH_SIZE: From1 = 64
        LAMBDA_Y: Positive = 0.2
        LAMBDA_Q: NotNegative = 4.0
        BANDWIDTH_P: Fraction = 0.3
        MAX_ITER: From1 = 5

    settings: Settings

    def from_views(self, x, h):
        """Return s m . h."""
        return self.logit_scale * self.modes(x, h)[0] @ h.T

    def modes(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return m (B, D) and the weights y (B, V) of the views."""
        s, V = self.settings, x.shape[1]
        A = (self.logit_scale * x @ h.T).softmax(-1)
        A = A @ A.mT
        n = count_share(V - 1, s.BANDWIDTH_P)
        apart = torch.cdist(x, x).square()
        width = apart.sort(-1).values[..., 1 : n + 1].mean(-1)  # 2 b^2

        def g(m: torch.Tensor) -> torch.Tensor:
            return torch.exp(-(x - m[:, None]).square().sum(-1) / width)

        def weights(y: torch.Tensor) -> torch.Tensor:
            return ((density + s.LAMBDA_Q * (A @ y[..., None])[..., 0]) / s.LAMBDA_Y).softmax(-1)

        def mean(m: torch.Tensor) -> torch.Tensor:
            return F.normalize(((g(m) * y)[:, None] @ x)[:, 0], dim=-1)

        y, m = torch.full_like(x[..., 0], 1 / V), x[:, 0]
        for _ in range(s.MAX_ITER):
            density = g(m)
            y = repeat_update(weights, y)
            m = repeat_update(mean, m)
        return m, y


def repeat_update(update, value: torch.Tensor) -> torch.Tensor:
    """Return the rows of `value` (B, .) after updates, each until it hardly changes."""
    moves = torch.ones_like(value[:, :1], dtype=torch.bool)
    for _ in range(INNER):
        new = update(value)
        far = (new - value).norm(dim=-1, keepdim=True) >= NEAR
        value, moves = torch.where(moves, new, value), moves & far
    return value
