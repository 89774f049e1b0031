"""CLAP and ZS-LP (Silva-Rodriguez et al., CVPR 2024; arXiv:2312.12730).

A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders.templates import DEFAULT, IMAGENET, ZERO_SHOT, template_of
from ..encoders.text import TextFeatures
from ..errors import UserError
from ..method import Method, register
from ..model.parts import Parts
from ..spec import PromptSpec, need, one_of
from ..teacher import Teacher

DISTANCES = ("none", "l2", "cosine")
WEIGHTS = ("", "corrected", "constant", "balanced", "adaptative")


class Prototypes(Parts):
    """A feature of each class, which starts from that of its sentences.

    Args:
        teacher: has the sentences.
        dim: D of the features.
    """

    prefix = "adapter."
    alpha: torch.Tensor
    rho: torch.Tensor

    def __init__(self, teacher: Teacher, dim: int):
        super().__init__()
        self.teacher = teacher
        self.prototypes = nn.Parameter(torch.empty(0, dim))
        # how much each class is held, and by how much more after the next epoch
        for name in ("alpha", "rho"):
            self.register_buffer(name, torch.empty(0))

    def start(self) -> None:
        """Give each class its feature in the untouched CLIP, (K, D)."""
        self.prototypes.data = self.teacher.raw.to(self.prototypes).clone()

    def text(self, features: TextFeatures) -> TextFeatures:
        """The prototypes, in the place of text features."""
        if not self.prototypes.numel():
            self.start()
        raw = self.prototypes[None]
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)


@register
class CLAP(Method):
    """A linear probe that starts from zero-shot CLIP, and is held there class by class.

    L = CE + mean_k alpha_k |w_k - w0_k|^2, alpha_k the mean zero-shot probability of the training
    images of class k. CONSTRAINT `none` is ZS-LP; `_corrected`, `_constant`, `_balanced` or
    `_adaptative` may follow `l2` and `cosine` (docs/adaptation.md).
    """

    node = "ADAPTER"
    checkpoint = "adapter"
    saves_submodule = "adapter"
    dead_weights = ("base_text_features",)
    class_bound = True
    trains_on_support = True
    training_only = ("CONSTRAINT", "REPETITIONS")
    support_passes = property(lambda self: self.settings.REPETITIONS)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node, and how often each training image is seen."""

        INIT: str = "ZS"
        CONSTRAINT: str = "l2"
        ENHANCED_BASE: str = "none"
        REPETITIONS: int = 20  # a constant of the published code

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """The point of these settings."""
        distance, _, weights = settings.CONSTRAINT.partition("_")
        one_of("CONSTRAINT", distance, DISTANCES)
        one_of("The part of CONSTRAINT after _", weights, WEIGHTS)
        for key, only in (("INIT", "ZS"), ("ENHANCED_BASE", "none")):
            value = getattr(settings, key)
            need(value == only, f"{key} is '{value}' but must be '{only}': others are baselines")
        passes = settings.REPETITIONS
        need(passes >= 1, f"REPETITIONS is {passes}: at least 1 is needed")
        return PromptSpec(M=0, N=0, beta=0, score="cosine")

    def setup(self, clip_model: Any, classnames: Sequence[str], dataset: str) -> None:
        """Make the prototypes, which start when they are first needed."""
        self.distance, _, self.weights = self.settings.CONSTRAINT.partition("_")
        several = dataset.startswith("ImageNet")
        sentences = [*IMAGENET, DEFAULT] if several else [template_of(ZERO_SHOT, dataset)]
        self.teacher = Teacher(clip_model, classnames, sentences)
        self.classnames = list(classnames)
        self.model.parts = Prototypes(self.teacher, self.model.feature_width)

    @property
    def prototypes(self) -> Prototypes:
        """The parts of the model."""
        assert isinstance(self.model.parts, Prototypes)
        return self.model.parts

    def make_room(self, n):
        """Leave the prototypes to be started, or to a checkpoint."""
        parts = self.prototypes
        w = parts.prototypes
        parts.alpha, parts.rho = parts.alpha[:0], parts.rho[:0]
        w.data = w.new_zeros(self.model.num_classes if n else 0, self.model.feature_width)

    def load_checkpoint(self, checkpoint, classnames):
        """As every method, and check that it has as many classes."""
        super().load_checkpoint(checkpoint, classnames)
        found = len(self.prototypes.prototypes)
        if found != len(classnames):
            raise UserError(
                f"The checkpoint has prototypes of {found} classes, but there are "
                f"{len(classnames)}: CLAP cannot name others"
            )

    def keep_classes(self, index):
        """Keep the prototypes of these classes."""
        parts = self.prototypes
        parts.prototypes.data = parts.prototypes.data[index]
        if len(parts.alpha):
            parts.alpha, parts.rho = parts.alpha[index], parts.rho[index]

    @torch.no_grad()
    def take_support(self, features, labels):
        """Start the prototypes, and weigh the constraint of each class."""
        parts = self.prototypes
        parts.start()
        if self.distance != "none":
            parts.alpha = self._weights(features, labels)
            parts.rho = torch.zeros_like(parts.alpha)

    def _weights(self, features, labels):
        """The weight of each class in the constraint, (K,)."""
        if self.weights == "balanced":
            return features.new_ones(self.model.num_classes)
        own = F.one_hot(labels, self.model.num_classes).float()  # (n, K)
        if missing := (own.sum(0) == 0).nonzero().flatten().tolist():
            raise UserError(
                f"The class '{self.classnames[missing[0]]}' has no training image, but CLAP weighs "
                "its constraint by them: add one, or set CONSTRAINT l2_balanced or none"
            )
        sums = features.new_zeros(self.model.num_classes)
        for x in features:
            zero_shot = self.model.logit_scale * F.normalize(x, dim=-1) @ self.teacher.h.T
            sums += (own * zero_shot.softmax(1)).sum(0)
        alpha = sums / len(features) / own.sum(0)
        if self.weights == "corrected":
            return alpha * len(alpha) / alpha.sum()
        return alpha.mean().expand_as(alpha).clone() if self.weights == "constant" else alpha

    def loss(self, output, batch):
        """The cross-entropy, and the constraint."""
        terms = {"ce": F.cross_entropy(output.logits, batch.labels)}
        if self.distance == "none":
            return terms
        if not len(self.prototypes.alpha):
            raise UserError(
                f"CLAP weighs its constraint (CONSTRAINT {self.settings.CONSTRAINT}) by the "
                "training images: give `build_method` its `support`, or set CONSTRAINT none"
            )
        w, w0 = self.prototypes.prototypes, self.teacher.raw
        apart = (w - w0).pow(2).sum(1) if self.distance == "l2" else 1 - F.cosine_similarity(w, w0)
        return {**terms, "constraint": (self.prototypes.alpha * apart).mean()}

    @torch.no_grad()
    def after_epoch(self, epoch, last):
        """With `_adaptative`, hold a class more the farther it went in the epoch before."""
        parts = self.prototypes
        if self.weights == "adaptative" and len(parts.alpha):
            apart = (parts.prototypes - self.teacher.raw).pow(2).sum(1)
            parts.alpha += parts.rho * apart
            parts.rho.copy_(apart)
