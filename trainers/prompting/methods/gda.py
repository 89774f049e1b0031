"""GDA (Wang et al., ICLR 2024; arXiv:2402.04087).

A Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation.
"""

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
import torch.nn.functional as F

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import IMAGENET
from ..full_precision import in_float64
from ..method import Method
from ..node import From0, From1, NotNegative
from ..registry import register
from ..teacher import Teacher

ALPHAS = tuple(10.0**power for power in range(-4, 3))  # of the search


@register
class GDA(OnSupport, PerClass):
    """Zero-shot logits plus those of one Gaussian a class, with one covariance; nothing is trained.

    The rows f_i are the n normalised features of the training images, each image with AUGMENT_EPOCH
    random augmentations; mu_k is the mean of class k's. Bayes' rule with equal priors gives

        logits_jk = SCALE z_j . h_k + alpha (W_k . z_j + b_k)
        W_k = P mu_k,   b_k = -log K - mu_k . W_k / 2,   P = D ((n - 1) S + tr(S) I)^-1
        S = sum_i (f_i - mu) (f_i - mu)' / (n - 1),   mu that of the class of f_i

    h_k is the feature of one sentence; on ImageNet and its variants, the normalised mean of the
    normalised features of seven. With one row a class S is 0, and P, too, as in the public code.
    alpha is ALPHA or, with SEARCH_HP, the first best of 1e-4, 1e-3, .., 100 on validation images;
    0.1 if no image is right with any. P, W and b are computed in float64.

    **Keys.** FORM `shrunk`: as above; other classes cannot be named. `base2new`: P is the
    pseudo-inverse of the mean of the classes' covariances (what float32 would cut is cut). The mean
    of a new class is that of the NEIGHBORS rows (all if there are fewer) with the largest f_i . h_k
    and COPIES times h_k; P is the mean over new classes of the P above, of these rows around h_k.

    **Published.** `few_shot`: FORM `shrunk`, with RN50, for domain shift with ViT-B/16.

    **Differences.** The public search sees all validation images, on ImageNet the test images.

    **Checkpoint.** Buffers `W`, `b`, `alpha` and, in `base2new`, `rows`. No public one.
    """

    node = "GDA"
    rules = MEANS
    public = Public(folder="gda")
    trains = False
    joint = False
    own_classes = True
    support_passes = property(attrgetter("settings.AUGMENT_EPOCH"))
    searches = property(attrgetter("settings.SEARCH_HP"))

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the public code, and its constants."""

        AUGMENT_EPOCH: From1 = 10
        ALPHA: NotNegative = 0.1
        SEARCH_HP: bool = True
        FORM: Literal["shrunk", "base2new"] = "shrunk"
        NEIGHBORS: From1 = 64
        COPIES: From0 = 16

    settings: Settings
    W: torch.Tensor
    b: torch.Tensor
    alpha: torch.Tensor
    rows: torch.Tensor
    of_new: torch.Tensor  # W and b of new classes, (D + 1, K)

    @property
    def class_bound(self):
        """True if the Gaussians of other classes are not known."""
        return self.settings.FORM == "shrunk"

    def build(self, clip_model, classnames, dataset):
        """Make an empty classifier, and the fixed text features."""
        templates = IMAGENET if dataset.startswith("ImageNet") else ()
        text = class_text(self.settings, classnames, dataset, templates)
        self.teacher = Teacher(clip_model, classnames, text)
        for name in ("W", "b", "rows", "of_new"):
            self.register_buffer(name, torch.empty(0), persistent=name != "of_new")
        self.register_buffer("alpha", torch.tensor(self.settings.ALPHA))

    def text_features(self, contexts):
        """Return the normalised mean of the normalised features of the sentences."""
        return self.teacher.text

    def logits(self, image, text):
        """Return SCALE z_j . h_k + alpha (W_k . z_j + b_k), (B, K)."""
        self.need_support(len(self.b))
        W, b = (self.W, self.b) if self.own_classes else self.new_classifier(text.h[0])
        return super().logits(image, text) + self.alpha * (image.z[:, 0] @ W + b)

    def make_room(self, n):
        """Empty the buffers, which get their sizes from the support or a checkpoint."""
        for name in ("W", "b", "rows", "of_new"):
            setattr(self, name, getattr(self, name)[:0])

    def keep_classes(self, index):
        """Keep the Gaussians of these classes."""
        self.W, self.b = self.W[:, index], self.b[index]

    @torch.no_grad()
    def take_support(self, features, labels):
        """Fit the Gaussians to the rows, one pass at a time."""
        K, D, base = self.num_classes, self.width, self.settings.FORM == "base2new"
        passes = F.normalize(features, dim=-1)
        total = sum((in_float64(f) for f in passes), torch.zeros(()))
        labels = labels.to(total.device)
        sizes = len(passes) * labels.bincount(minlength=K).to(total)
        self.need_each_class(labels.repeat(len(passes)), 1 + base)
        mu, n = total.new_zeros(K, D).index_add_(0, labels, total) / sizes[:, None], sizes.sum()
        weight = 1 / (K * (sizes - 1))[labels, None] if base else 1 / (n - 1).clamp_min(1)
        apart = (in_float64(f) - mu[labels] for f in passes)
        S = sum((x.T @ (weight * x) for x in apart), torch.zeros(()))
        self.rows = passes.flatten(0, 1) if base else self.rows
        cut = D * torch.finfo(torch.float32).eps
        P = torch.linalg.pinv(S, rtol=cut, hermitian=True) if base else precision(S, n)
        self.W, self.b = self.classifier(mu, P)

    def classifier(self, mu: torch.Tensor, P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return W (D, K) and b (K), float32, of means mu (K, D) and P (D, D) in float64."""
        W = P @ mu.T
        return W.to(self.alpha), (-math.log(len(mu)) - (mu.T * W).sum(0) / 2).to(self.alpha)

    def new_classifier(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return W and b of classes without training images, with text features h (K, D)."""
        if not len(self.of_new):
            with torch.inference_mode(False), torch.no_grad():  # so that a gradient can pass
                f, h = in_float64(self.rows), in_float64(h)
                copies, m = self.settings.COPIES, min(self.settings.NEIGHBORS, len(f))
                near = f[(h @ f.T).topk(m).indices]  # (K, m, D)
                each = (precision(x.T @ x / (m - 1), m) for x in near - h[:, None])
                P = sum(each, torch.zeros(())) / len(h)
                W, b = self.classifier((near.sum(1) + copies * h) / (m + copies), P)
                self.of_new = torch.cat([W, b[None]])
        return self.of_new[:-1], self.of_new[-1]

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Choose alpha by the accuracy; the first best."""
        z = F.normalize(features, dim=-1)
        zero_shot, own = self.logit_scale * z @ self.text().h[0].T, z @ self.W + self.b
        hits = [((zero_shot + alpha * own).argmax(1) == labels).sum() for alpha in ALPHAS]
        right = torch.stack(hits).tolist()
        self.alpha.fill_(ALPHAS[right.index(max(right))] if any(right) else 0.1)
        print(
            f"Search: alpha {float(self.alpha):.4g} classifies {max(right)} of {len(labels):,} "
            "validation images correctly"
        )


def precision(S: torch.Tensor, n: torch.Tensor | int) -> torch.Tensor:
    """Return D ((n - 1) S + tr(S) I)^-1 of a covariance S (D, D) of n rows; 0 if S is 0."""
    if not S.any():
        return S
    return len(S) * torch.linalg.inv((n - 1) * S + S.trace() * torch.eye(len(S)).to(S))
