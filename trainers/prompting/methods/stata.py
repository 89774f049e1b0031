"""StatA (Zanella et al., CVPR 2025; arXiv:2501.03729).

Realistic Test-Time Adaptation of Vision-Language Models.

Letters: Q test images, K classes, D the width of the features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..capabilities.transductive import Transductive
from ..checkpoint.public import Public
from ..method import Method
from ..node import From0, From1, NotNegative, Positive
from ..registry import register
from .transclip import LEAST, Mixture, Solver

CHUNK = 2500  # images, of the public code's first variance


@register
class StatA(Transductive):
    """TransCLIP's Gaussians, held to those of the text where few images speak for a class.

    z (Q, K), q, h and the graph W are TransCLIP's, and the logits are log z. At first z = q, mu = h
    and each class has the variance v0 (D). In each of MAX_ITER rounds z is computed Z_ITER times,
    then mu, then v; at the end z once more:

        z_i ~ q_i^LAMBDA_Y exp(m_i / TAU + c sum_j (W_ij + W_ji) z_j)
        c = LAMBDA_LAPLACIAN / (2 N_NEIGHBORS)
        m_ik = -1/2 sum_d ((x_id - mu_kd)^2 / v_kd + log v_kd)
        b_k = n_k / (ALPHA + n_k),   n_k: the number of images whose greatest z is that of k
        mu_k = n(b_k n(sum_i z_ik x_i) + (1 - b_k) h_k)
        v_k = b_k sum_i z_ik (x_i - mu_k)^2 / sum_i z_ik + (1 - b_k) (v0 + (h_k - mu_k)^2)
        v0 = 1/Q sum_ik q_ik (x_i - h_k)^2

    With SOFT_BETA, n_k is sum_i z_ik. A class without images keeps its text, so few classes in a
    batch do no harm: TEST.STREAM has such batches (docs/metrics.md).

    **Published.** The constants, for all data sets, with one sentence. Means of eleven data sets,
    zero-shot CLIP 65.2: 70.4 (1 to 4 classes in 64 images), 69.3 (2 to 10), 67.4 (5 to 25); 69.9
    (all images). Streams of 128: 67.0, 68.9, 69.5 (gamma 0.1, 0.01, 0.001), 69.1 (separate).

    **Differences.** FORM `released` has the public code's v0 of more than 2,500 images, whose sum
    it divides by Q after each 2,500 of them. The public sentence of DescribableTextures has no full
    stop.
    """

    node = "STATA"
    public = Public(folder="stata")
    trains = False

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the node, with the values of the public code, and FORM."""

        ALPHA: NotNegative = 1.0
        LAMBDA_Y: NotNegative = 1.0
        LAMBDA_LAPLACIAN: NotNegative = 1.0
        SOFT_BETA: bool = False
        MAX_ITER: From0 = 10
        Z_ITER: From1 = 5
        N_NEIGHBORS: From1 = 3
        TAU: Positive = 50.0
        FORM: Literal["aligned", "released"] = "aligned"

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Set the scale of the zero-shot logits."""

    def predict_all(self, image, text, prior=None):
        """Return log z (Q, K)."""
        solver = self.solver(image.z[:, 0], text.h[0])
        return solver.last(solver.start(), 0.0).log_z

    def solver(self, x: Tensor, h: Tensor) -> "Anchored":
        """Return the solver for images x (Q, D) and text h (K, D), normalised."""
        log_q = (self.logit_scale * x @ h.T).log_softmax(-1)
        return Anchored(self.settings, x, log_q, h, self.chunk_bytes)


class Anchored(Solver):
    """The rounds of StatA; v (K, D) of a state are variances of the classes.

    Args:
        x: (Q, D), normalised features.
        log_q: (Q, K).
        h: (K, D), normalised, the anchors.
        chunk_bytes: as of `Solver`.
    """

    def __init__(self, s: StatA.Settings, x: Tensor, log_q: Tensor, h: Tensor, chunk_bytes: int):
        super().__init__(s, x, log_q, x[:0], x.new_zeros(0).long(), chunk_bytes)
        self.h, self.v0 = h, self._spread(log_q.exp(), h)

    power = property(lambda self: self.s.LAMBDA_Y)

    def _spread(self, q: Tensor, h: Tensor) -> Tensor:
        """Return v0 (D)."""
        Q, h = len(q), h - self.center
        if self.s.FORM == "aligned":
            return self._squares(q, self.x, h).sum(0) / Q
        v0 = torch.zeros_like(self.center)
        for q_part, x in zip(q.split(CHUNK), self.x.split(CHUNK), strict=True):
            v0 = (v0 + self._squares(q_part, x, h).sum(0)) / Q
        return v0

    @staticmethod
    def _squares(z: Tensor, x: Tensor, mu: Tensor) -> Tensor:
        """Return sum_i z_ik (x_i - mu_k)^2, (K, D)."""
        return z.T @ x.square() - 2 * mu * (z.T @ x) + z.sum(0)[:, None] * mu.square()

    def start(self) -> Mixture:
        """Return z = q, mu = h and v = v0 of each class."""
        return Mixture(self.log_q, self.h, self.v0.expand_as(self.h))

    def likeness(self, mu: Tensor, v: Tensor) -> Tensor:
        """Return m (Q, K)."""
        x, mu = self.x, mu - self.center
        far = x.square() @ (1 / v).T - 2 * x @ (mu / v).T + (mu.square() / v).sum(1)
        return -(far + v.log().sum(1)) / 2

    def of_neighbours(self, z: Tensor) -> Tensor:
        """Return the sum over neighbours, (Q, K), with its weight."""
        return self.s.LAMBDA_LAPLACIAN * super().of_neighbours(z)

    def share(self, z: Tensor) -> Tensor:
        """Return b (K, 1), how much the images of each class count beside its text."""
        counts = z.sum(0) if self.s.SOFT_BETA else z.argmax(1).bincount(minlength=z.shape[1])
        return (counts / (self.s.ALPHA + counts).clamp_min(LEAST))[:, None]

    def fit(self, z: Tensor, mu: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Return mu and v, both (K, D), for z."""
        b, mass = self.share(z), z.sum(0)[:, None]
        own = F.normalize(z.T @ self.x + mass * self.center, dim=-1)
        mu = F.normalize(b * own + (1 - b) * self.h, dim=-1)
        spread = self._squares(z, self.x, mu - self.center) / mass.clamp_min(LEAST)
        v = b * spread + (1 - b) * (self.v0 + (self.h - mu).square())
        return mu, v.clamp_min(LEAST)
