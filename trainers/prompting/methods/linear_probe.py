"""The linear probe of CLIP (Radford et al., ICML 2021; arXiv:2103.00020).

With the search of LP++ (Huang et al., CVPR 2024; arXiv:2404.02285).
"""

import math
from dataclasses import dataclass
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public
from ..full_precision import in_float64
from ..method import Method
from ..node import From0, Positive
from ..registry import register

ROUNDS, STARTS = 1000, 5  # of L-BFGS: a new start follows a line search that fails
TOLERANCE = 1e-8  # of the gradient


@register
class LinearProbe(OnSupport, PerClass):
    """Logistic regression on the normalised image features; the text is not used.

        logits_jk = w_k . z_j + b_k,   L = C sum_i CE_i + sum_k |w_k|^2 / 2

    over one augmented view of each training image. L-BFGS in float64 finds the minimum, where the
    gradient vanishes. Other classes cannot be named.

    C is the key or, with SEARCH_HP, has the best validation accuracy: the first best of 1e6, 1e4,
    .., 1e-6; then, NUM_STEP times between left = C / 10 and right = 10 C, the better one (left if
    equal) is kept and the other becomes their geometric mean. The better of the last two counts.

    Images with several labels have K regressions, -log p or -log(1 - p) with p = sigmoid(logits_jk)
    in place of CE, over the known labels; C then has the least sum of these on validation images.

    **Published.** With the search, on as many validation images as shots (`DATASET.VALIDATION_SHOTS
    -1`), on ImageNet from training images; crop scale 0.5-1.

    **Differences.** The public code stops where scikit-learn does, at a gradient of 1e-4. With C of
    0.01 and less that is far from the minimum, and other C win. CLAP's linear probe, which gradient
    steps train from a random start, is CLAP with INIT RANDOM and CONSTRAINT none.

    **Checkpoint.** `classifier.weight`, `classifier.bias`. The public code saves nothing.
    """

    node = "LINEAR_PROBE"
    public = Public(folder="linear_probe", ignored=("SHOTS",))
    trains = False
    class_bound = True
    class_rows: tuple[str, ...] = ("classifier.weight", "classifier.bias")
    several = "decides"
    searches = property(attrgetter("settings.SEARCH_HP"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        C: Positive = 1.0
        SEARCH_HP: bool = True
        NUM_STEP: From0 = 8

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make a classifier without rows, which training images or a checkpoint fill."""
        self.classifier = nn.Linear(self.width, len(classnames))
        self.make_room(0)

    def logits(self, image, text):
        """Return w_k . z_j + b_k, (B, K)."""
        self.need_support(len(self.classifier.weight))
        return self.classify(image.z[:, 0])

    def classify(self, z: torch.Tensor) -> torch.Tensor:
        """Return logits (n, K) of normalised features (n, D)."""
        return self.classifier(z)

    @torch.no_grad()
    def take_support(self, features, labels):
        """Fit the classifier to the features of one view, normalised, unless validation follows."""
        self.support = F.normalize(features[0], dim=-1), labels
        if not self.validation_follows:
            self.fit(self.settings.C)

    def fit(self, C: float) -> None:
        """Set the classifier to the solution for C."""
        W, b = solve_regression(*self.support, self.num_classes, C, self.settings.several)
        self.classifier.weight.data.copy_(W)
        self.classifier.bias.data.copy_(b)

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Choose C, and keep the classifier that belongs to it."""
        z, tried = F.normalize(features, dim=-1), {}
        several = self.settings.several

        def right(C: float) -> float:
            if C not in tried:
                self.fit(C)
                logits = self.classifier(z)
                tried[C] = float(
                    -binary(logits, labels) if several else (logits.argmax(1) == labels).sum()
                )
            return tried[C]

        best = max((10.0**power for power in range(6, -7, -2)), key=right)
        left, high = best / 10, best * 10
        for _ in range(self.settings.NUM_STEP):
            middle = math.sqrt(left * high)
            if right(left) < right(high):
                best, left = high, middle
            else:
                best, high = left, middle
        self.fit(best)
        done = f"classifies {right(best):.0f} of {len(labels):,} validation images correctly"
        if several:
            done = f"has the cross-entropy {-right(best) / (labels >= 0).sum():.4f} of known labels"
        print(f"Search: C {best:.4g} {done}")


def binary(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the binary cross-entropies of the known labels (n, K)."""
    return F.binary_cross_entropy_with_logits(
        logits, (labels == 1).to(logits), (labels >= 0).to(logits), reduction="sum"
    )


def solve_regression(
    z: torch.Tensor, labels: torch.Tensor, num_classes: int, C: float, several: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return W (K, D) and b (K,) that minimise C sum_i CE_i + |W|^2 / 2, float64.

    For z (n, D), normalised, and labels (n,), or (n, K) of several. W = m V with m^2 = min(1, C n):
    without, the curvatures of W and b differ by 1 / (C n) where C is small. For the same reason the
    minimised function is divided by C n and min(1, C n).
    """
    z = in_float64(z)
    labels = labels.to(z.device)
    n = len(z)
    own = (labels == 1).to(z) if several else F.one_hot(labels, num_classes).to(z)
    c = min(1.0, C * n)
    m, decay = math.sqrt(c), 1 / (C * n)
    V, b = z.new_zeros(num_classes, z.shape[1]), z.new_zeros(num_classes)

    def gradients() -> float:
        logits = m * z @ V.T + b
        if several:
            apart = (logits.sigmoid() - own) * (labels >= 0) / (c * n)
            loss = binary(logits, labels) / n
        else:
            apart = (logits.softmax(1) - own) / (c * n)
            loss = F.cross_entropy(logits, labels)
        V.grad, b.grad = m * apart.T @ z + decay * V, apart.sum(0)
        return float(loss / c + decay * V.square().sum() / 2)

    for _ in range(STARTS):
        torch.optim.LBFGS(
            [V, b], max_iter=ROUNDS, max_eval=10 * ROUNDS, tolerance_grad=TOLERANCE,
            tolerance_change=0, history_size=20, line_search_fn="strong_wolfe",
        ).step(gradients)  # fmt: skip
        assert V.grad is not None and b.grad is not None
        if max(V.grad.abs().max(), b.grad.abs().max()) <= TOLERANCE:
            break
    return m * V, b
