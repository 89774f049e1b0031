"""CLAP and ZS-LP (Silva-Rodriguez et al., CVPR 2024; arXiv:2312.12730).

A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..capabilities.staged import Staged
from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import DEFAULT, IMAGENET
from ..encoders.text import TextFeatures
from ..errors import need, one_of
from ..method import Method
from ..node import From1
from ..registry import register
from ..teacher import Teacher

DISTANCES = ("none", "l2", "cosine")
WEIGHTS = ("", "corrected", "constant", "balanced", "adaptative")


class Prototypes(nn.Module):
    """A trained feature for each class, and the weight of its constraint; empty at first."""

    alpha: torch.Tensor
    rho: torch.Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(0, dim))
        # the weight of each class in the constraint, and the change after the next epoch
        for name in ("alpha", "rho"):
            self.register_buffer(name, torch.empty(0))


@register
class CLAP(OnSupport, PerClass, Staged):
    """A linear probe that starts from zero-shot CLIP, with a constraint that keeps it close.

    w_k starts at w0_k, the mean over the sentences of the text features before normalisation (eight
    on ImageNet and its variants, else one). Other classes cannot be named.

        logits_jk = s z_j . normalise(w_k)
        loss      = CE + 1/K sum_k alpha_k |w_k - w0_k|^2

    alpha_k is the mean zero-shot probability of k over the training images of class k in all
    passes. CONSTRAINT `none` is ZS-LP: no second term. `cosine` uses 1 - cos(w_k, w0_k). `l2` and
    `cosine` may be followed by `_corrected` (alpha times K / sum alpha), `_constant` (its mean),
    `_balanced` (1) or `_adaptative`: after each epoch alpha <- alpha + rho d, rho <- d, where d are
    the squared distances and rho is 0 at first. INIT `RANDOM` starts from Kaiming's normal
    distribution, without a constraint: the linear probe of the public code. Other values of INIT
    and ENHANCED_BASE are other baselines of it.

    **Published.** Before the first step, the training images pass the image encoder REPETITIONS
    times with random crops and flips; steps use these features. Batch 256, SGD, rate 0.1, no weight
    decay, 300 epochs, the first with 1e-5; with RN50.

    **Checkpoint.** `prototypes`, in `adapter`. The public code also writes `base_text_features` and
    `logit_scale`, which are not read; it does not write alpha, and
    keeps `_` in class names.
    """

    node = "ADAPTER"
    rules = MEANS
    public = Public(folder="adapter", submodule="adapter", dead=("base_text_features",))
    class_bound = True
    class_rows = ("adapter.prototypes",)
    trains_on_support = True
    training_only = ("INIT", "CONSTRAINT", "REPETITIONS")
    support_passes = property(attrgetter("settings.REPETITIONS"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node, and the number of passes over the training images."""

        INIT: Literal["ZS", "RANDOM"] = "ZS"
        CONSTRAINT: str = "l2"
        ENHANCED_BASE: Literal["none"] = "none"
        REPETITIONS: From1 = 20  # a constant of the published code

        def __post_init__(self) -> None:
            distance, _, weights = self.CONSTRAINT.partition("_")
            one_of("CONSTRAINT", distance, DISTANCES)
            one_of("The part of CONSTRAINT after _", weights, WEIGHTS)
            need(
                self.INIT == "ZS" or distance == "none",
                f"INIT is RANDOM but CONSTRAINT is {self.CONSTRAINT}, which keeps prototypes close "
                "to the text features: set CONSTRAINT none",
            )

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make empty prototypes, which are filled when they are first read."""
        self.distance, _, self.weights = self.settings.CONSTRAINT.partition("_")
        templates = [*IMAGENET, DEFAULT] if dataset.startswith("ImageNet") else ()
        text = class_text(self.settings, classnames, dataset, templates, "raw_mean")
        self.teacher = Teacher(clip_model, classnames, text)
        self.adapter = Prototypes(self.width)

    def start(self) -> None:
        """Set the prototypes (K, D) to the text features of the untouched CLIP, or at random."""
        w = self.adapter.prototypes
        with torch.inference_mode(False):  # so that training can read it
            if self.settings.INIT == "ZS":
                w.data = self.teacher.raw.to(w).clone()
            else:
                w.data = nn.init.kaiming_normal_(w.new_empty(self.num_classes, self.width))

    def text_features(self, contexts):
        """Return the prototypes as text features."""
        if not self.adapter.prototypes.numel():
            self.start()
        raw = self.adapter.prototypes[None]
        return TextFeatures(F.normalize(raw, dim=-1), raw)

    def make_room(self, n):
        """Make room for the prototypes of K classes, or for those of a checkpoint (n = 0)."""
        super().make_room(n)
        parts = self.adapter
        parts.alpha, parts.rho = parts.alpha[:0], parts.rho[:0]

    def keep_classes(self, index):
        """Keep the prototypes of these classes."""
        super().keep_classes(index)
        parts = self.adapter
        if len(parts.alpha):
            parts.alpha, parts.rho = parts.alpha[index], parts.rho[index]

    @torch.no_grad()
    def take_support(self, features, labels):
        """Initialise the prototypes, and weight the constraint of each class."""
        parts = self.adapter
        self.start()
        if self.distance != "none":
            parts.alpha = self._weights(features, labels)
            parts.rho = torch.zeros_like(parts.alpha)

    def _weights(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the weight of each class in the constraint, (K,)."""
        if self.weights == "balanced":
            return features.new_ones(self.num_classes)
        own = F.one_hot(labels, self.num_classes).float()  # (n, K)
        self.need_each_class(labels)
        sums = features.new_zeros(self.num_classes)
        for x in features:
            zero_shot = self.logit_scale * F.normalize(x, dim=-1) @ self.teacher.h.T
            sums += (own * zero_shot.softmax(1)).sum(0)
        alpha = sums / len(features) / own.sum(0)
        if self.weights == "corrected":
            return alpha * len(alpha) / alpha.sum()
        return alpha.mean().expand_as(alpha).clone() if self.weights == "constant" else alpha

    def loss(self, output, batch):
        """Return the cross-entropy and the constraint."""
        terms = {"ce": F.cross_entropy(output.logits, batch.labels)}
        if self.distance == "none":
            return terms
        self.need_support(len(self.adapter.alpha))
        w, w0 = self.adapter.prototypes, self.teacher.raw
        apart = (w - w0).pow(2).sum(1) if self.distance == "l2" else 1 - F.cosine_similarity(w, w0)
        return {**terms, "constraint": (self.adapter.alpha * apart).mean()}

    @torch.no_grad()
    def after_epoch(self, epoch, last):
        """With `_adaptative`, raise the weight of classes that moved far in the previous epoch."""
        parts = self.adapter
        if self.weights == "adaptative" and len(parts.alpha):
            apart = (parts.prototypes - self.teacher.raw).pow(2).sum(1)
            parts.alpha += parts.rho * apart
            parts.rho.copy_(apart)
