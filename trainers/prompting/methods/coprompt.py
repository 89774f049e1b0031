"""CoPrompt (Roy and Etemad, ICLR 2024; arXiv:2306.01195).

Consistency-guided Prompt Learning for Vision-Language Models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import not_negative, one_of
from ..method import register
from ..regularizers import apart
from ..teacher import Teacher, read_sentences
from .clip_adapter import Adapter
from .maple import MaPLe

IMAGE_SHARE, TEXT_SHARE = 0.1, 0.2  # of the adapters' networks; constants of the published code


@register
class CoPrompt(MaPLe):
    """MaPLe with adapters, trained to agree with the untouched CLIP on other words and views.

    L = CE + W (d(h, h0) + d(z, z0)), d the mean cosine distance, or with DISTILL mse the mean
    squared error. z0 is the feature of a second augmentation of the image. h0_k is the feature of
    a sentence about class k from the file SENTENCES; its number is drawn in each step
    (docs/methods.md, section 12).
    """

    node = "CoPrompt"
    dead_weights = ("model_distill.",)
    views = 2
    takes = ("llm",)
    training_only = ("W", "DISTILL", "SENTENCES")
    outside = {"W": "TRAINER.W", "DISTILL": "TRAINER.DISTILL"}

    @dataclass(frozen=True)
    class Settings(MaPLe.Settings):
        """The keys of the node."""

        W: float = 8.0
        DISTILL: str = "cosine"
        SENTENCES: str | Mapping | None = None  # a JSON file

        def __post_init__(self) -> None:
            one_of("TRAINER.DISTILL", self.DISTILL, ("cosine", "mse"))
            not_negative("TRAINER.W", self.W)

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make the contexts and an adapter for each side; the teacher is made in the first step."""
        super().build(clip_model, classnames, dataset)
        self.adapter_image = Adapter(self.width, IMAGE_SHARE)
        self.adapter_text = Adapter(self.width, TEXT_SHARE)

        def teacher():
            sentences = read_sentences(self.settings.SENTENCES, classnames)
            return Teacher(clip_model, classnames, sentences)

        self._make_teacher, self._teacher = teacher, None

    def image_features(self, images, contexts):
        """Return the image features, adapted and normalised."""
        features = super().image_features(images, contexts)
        return features._replace(z=F.normalize(self.adapter_image(features.z), dim=-1))

    def text_features(self, contexts):
        """Return the text features, adapted and normalised."""
        features = super().text_features(contexts)
        raw = self.adapter_text(features.raw)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)

    @property
    def teacher(self) -> Teacher:
        """The untouched CLIP, made in the first step: an evaluation needs no sentences."""
        if self._teacher is None:
            self._teacher = self._make_teacher()
        return self._teacher

    def loss(self, output, batch):
        """Return the terms of CE + W (d(h, h0) + d(z, z0))."""
        settings = self.settings
        sentences = self.teacher.h_each
        h0 = sentences[int(torch.randint(len(sentences), ()))]
        z0 = self.teacher.z(batch.views[1])
        distance = apart if settings.DISTILL == "cosine" else F.mse_loss
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "kd_text": settings.W * distance(output.text.h[0], h0),
            "kd_image": settings.W * distance(output.image.z[:, 0], z0),
        }
