"""DePT (Zhang et al., CVPR 2024; arXiv:2309.07210).

DePT: Decoupled Prompt Tuning. A separate head, on features with scaled and shifted channels, learns
what is specific to the base classes, so that CoOp's prompt keeps what new classes need, too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from trainers.prompting import Parts, UserError, register
from trainers.prompting.methods.coop import CoOp


class Channels(nn.Module):
    """Computes scale * x + bias for each of the D channels; initially the identity."""

    def __init__(self, dim):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        """(..., D) -> (..., D)."""
        return self.scale * x + self.bias


class Head(Parts):
    """The channel-adjusted transfer head, on features before normalisation.

    Args:
        proj: (W, D), projects the states of an image to its feature.
        num_classes: K of the training.
        settings: of the method.
    """

    own_classes = True

    def __init__(self, proj, num_classes, settings):
        super().__init__()
        self.register_buffer("proj", proj.detach().float(), persistent=False)
        self.settings, dim = settings, proj.shape[1]
        if settings.FILM:
            self.film_lp_img, self.film_lp_text = Channels(dim), Channels(dim)
        if settings.TYPE == "linear":
            self.linear_probe_proj = nn.Linear(dim, num_classes)

    def features(self, image, text):
        """Return the features of images (B, D) and classes (K, D) that the head uses."""
        x, t = image.states[:, 0, 0].float() @ self.proj, text.raw[0].float()
        return (self.film_lp_img(x), self.film_lp_text(t)) if self.settings.FILM else (x, t)

    def of_head(self, image, text, scale, labels=None):
        """Return the head's logits of images (B, K).

        With labels, a linear head returns (2B, K): first the logits of the labels' text features.
        """
        x, t = self.features(image, text)
        if self.settings.TYPE == "similarity":
            return scale * F.normalize(x, dim=-1) @ F.normalize(t, dim=-1).T
        return self.linear_probe_proj(x if labels is None else torch.cat([t[labels], x]))

    def logits(self, logits, image, text, scale):
        """Return the logits of both heads for training classes, and of matching for others."""
        if not self.own_classes:
            return logits
        other = self.of_head(image, text, scale)
        share = self.settings.WEIGHT if self.settings.TEST_TIME_FUSION else 1
        return (1 - share) * logits + share * other


@register
class DePT(CoOp):
    """DePT with CoOp: L = (1 - WEIGHT) CE(matching) + WEIGHT CE(head).

    The linear head learns from images and from the text features of their classes. It is used only
    if the class names are those of the training; the public code also selects its rows for
    ImageNet-A and ImageNet-R.
    """

    checkpoint = "PromptLearner"
    saves_submodule = False
    training_only = ("SUBSAMPLE_CLASSES",)
    outside = {
        "WEIGHT": "TRAINER.LINEAR_PROBE.WEIGHT",
        "TYPE": "TRAINER.LINEAR_PROBE.TYPE",
        "TEST_TIME_FUSION": "TRAINER.LINEAR_PROBE.TEST_TIME_FUSION",
        "FILM": "TRAINER.FILM.LINEAR_PROBE",
        "SUBSAMPLE_CLASSES": "DATASET.SUBSAMPLE_CLASSES",
    }

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The public keys and defaults."""

        WEIGHT: float = 0.7
        TYPE: str = "linear"
        TEST_TIME_FUSION: bool = True
        FILM: bool = True
        SUBSAMPLE_CLASSES: str = "all"

    @staticmethod
    def point(settings):
        """Return CoOp's spec, with the states of the image that the head needs."""
        if not 0 <= settings.WEIGHT <= 1:
            raise UserError(f"TRAINER.LINEAR_PROBE.WEIGHT is {settings.WEIGHT}, not in [0, 1]")
        if settings.TYPE not in ("linear", "similarity"):
            raise UserError(
                f"TRAINER.LINEAR_PROBE.TYPE is '{settings.TYPE}' but must be linear or similarity"
            )
        return CoOp.point(settings).with_(states=1)

    def setup(self, clip_model, classnames, dataset):
        """Make the head."""
        self.model.parts = Head(clip_model.visual.proj, len(classnames), self.settings)

    def make_room(self, n):
        """Empty the head if n is 0, before a checkpoint with other classes is loaded."""
        head = getattr(self.model.parts, "linear_probe_proj", None)
        if head and not n:
            head.weight.data, head.bias.data = head.weight.data[:0], head.bias.data[:0]

    def loss(self, output, batch):
        """Return the loss terms of both heads."""
        parts, s, w = self.model.parts, self.model.logit_scale, self.settings.WEIGHT
        matching = s * output.image.z[:, 0].float() @ output.text.h[0].float().T
        head = parts.of_head(output.image, output.text, s, batch.labels)
        labels = batch.labels.repeat(len(head) // len(batch.labels))
        return {
            "ce": (1 - w) * F.cross_entropy(matching, batch.labels),
            "ce_head": w * F.cross_entropy(head, labels),
        }

    def load_checkpoint(self, checkpoint, classnames):
        """Load a checkpoint; a public one lacks its classes, which then follow the protocol."""
        super().load_checkpoint(checkpoint, classnames)
        if checkpoint.get("classnames") is None:
            of = self.settings.SUBSAMPLE_CLASSES
            all_of_imagenet = of == "all" and "ImageNet" in self.settings.dataset
            self.model.parts.own_classes = of == "base" or all_of_imagenet
