"""DePT (Zhang et al., CVPR 2024; arXiv:2309.07210).

DePT: Decoupled Prompt Tuning. A separate head, on features with scaled and shifted channels, learns
what is specific to the base classes, so that CoOp's prompt keeps what new classes need, too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from trainers.prompting import ImageEncoder, PerClass, Public, register
from trainers.prompting.methods.coop import CoOp


class Channels(nn.Module):
    """Computes scale * x + bias for each of the D channels; initially the identity."""

    def __init__(self, dim):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        """(..., D) -> (..., D)."""
        return self.scale * x + self.bias


@register
class DePT(PerClass, CoOp):
    """DePT with CoOp: L = (1 - WEIGHT) CE(matching) + WEIGHT CE(head).

    The linear head learns from images and from the text features of their classes. It is used only
    if the class names are those of the training; the public code also selects its rows for
    ImageNet-A and ImageNet-R.
    """

    public = Public(
        folder="PromptLearner",
        submodule="",
        outside={
            "WEIGHT": "TRAINER.LINEAR_PROBE.WEIGHT",
            "TYPE": "TRAINER.LINEAR_PROBE.TYPE",
            "TEST_TIME_FUSION": "TRAINER.LINEAR_PROBE.TEST_TIME_FUSION",
            "FILM": "TRAINER.FILM.LINEAR_PROBE",
            "SUBSAMPLE_CLASSES": "DATASET.SUBSAMPLE_CLASSES",
        },
    )
    test_keys = ("SUBSAMPLE_CLASSES",)

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The public keys and defaults."""

        WEIGHT: float = 0.7
        TYPE: str = "linear"
        TEST_TIME_FUSION: bool = True
        FILM: bool = True
        SUBSAMPLE_CLASSES: str = "all"

    own_classes = True

    def encoders(self, clip_model, classnames, dataset):
        """Make CoOp's encoders; the head reads the state of the image, before its projection."""
        text, _ = super().encoders(clip_model, classnames, dataset)
        return text, ImageEncoder(clip_model.visual, states=1)

    def build(self, clip_model, classnames, dataset):
        """Make the context and the channel-adjusted transfer head."""
        super().build(clip_model, classnames, dataset)
        proj = clip_model.visual.proj.detach().float()  # (W, D), from the state to the feature
        self.register_buffer("proj", proj, persistent=False)
        if self.settings.FILM:
            self.film_lp_img, self.film_lp_text = Channels(self.width), Channels(self.width)
        if self.settings.TYPE == "linear":
            self.linear_probe_proj = nn.Linear(self.width, len(classnames))

    def make_room(self, n):
        """Empty the head if n is 0, before a checkpoint with other classes is loaded."""
        head = getattr(self, "linear_probe_proj", None)
        if head and not n:
            head.weight.data, head.bias.data = head.weight.data[:0], head.bias.data[:0]

    def of_head(self, image, text, labels=None):
        """Return the head's logits of images (B, K), from features before normalisation.

        With labels, a linear head returns (2B, K): first the logits of the labels' text features.
        """
        x, t = image.states[:, 0, 0].float() @ self.proj, text.raw[0].float()
        if self.settings.FILM:
            x, t = self.film_lp_img(x), self.film_lp_text(t)
        if self.settings.TYPE == "similarity":
            return self.logit_scale * F.normalize(x, dim=-1) @ F.normalize(t, dim=-1).T
        return self.linear_probe_proj(x if labels is None else torch.cat([t[labels], x]))

    def logits(self, image, text):
        """Return the logits of both heads for training classes, and of matching for others."""
        matching = super().logits(image, text)
        if not self.own_classes:
            return matching
        share = self.settings.WEIGHT if self.settings.TEST_TIME_FUSION else 1
        return (1 - share) * matching + share * self.of_head(image, text)

    def loss(self, output, batch):
        """Return the loss terms of both heads."""
        w, (image, text) = self.settings.WEIGHT, output[1:]
        matching = self.logit_scale * image.z[:, 0].float() @ text.h[0].float().T
        head = self.of_head(image, text, batch.labels)
        labels = batch.labels.repeat(len(head) // len(batch.labels))
        return {
            "ce": (1 - w) * F.cross_entropy(matching, batch.labels),
            "ce_head": w * F.cross_entropy(head, labels),
        }

    def load_checkpoint(self, checkpoint, classnames):
        """Load a checkpoint; a public one lacks its classes, which then follow the protocol."""
        super().load_checkpoint(checkpoint, classnames)
        if checkpoint.classnames is None:
            of = self.settings.SUBSAMPLE_CLASSES
            all_of_imagenet = of == "all" and "ImageNet" in self.settings.dataset
            self.own_classes = of == "base" or all_of_imagenet
