"""CoPrompt (Roy and Etemad, ICLR 2024; arXiv:2306.01195).

Consistency-guided Prompt Learning for Vision-Language Models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..errors import UserError
from ..method import Method, register
from ..model.parts import Parts
from ..regularizers import apart
from ..spec import PromptSpec, Words, shared_prompt
from ..teacher import Teacher, read_sentences
from .clip_adapter import Adapter


class Adapters(Parts):
    """An adapter for each side; the result's direction does not depend on a feature's norm.

    Args:
        dim: D, the width of the features.
        image, text: share of the adapter's network in the feature of that side.
    """

    def __init__(self, dim: int, image: float, text: float):
        super().__init__()
        self.adapter_image = Adapter(dim, image)
        self.adapter_text = Adapter(dim, text)

    def image(self, features: ImageFeatures) -> ImageFeatures:
        """Adapt the image features and normalise them."""
        return features._replace(z=F.normalize(self.adapter_image(features.z), dim=-1))

    def text(self, features: TextFeatures) -> TextFeatures:
        """Adapt the text features and normalise them."""
        raw = self.adapter_text(features.raw)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)


@register
class CoPrompt(Method):
    """MaPLe with adapters, trained to agree with the untouched CLIP on other words and views.

    L = CE + W (d(h, h0) + d(z, z0)), d the mean cosine distance, or with DISTILL mse the mean
    squared error. z0 is the feature of a second augmentation of the image. h0_k is the feature of
    a sentence about class k from the file SENTENCES; its number is drawn in each step
    (docs/methods.md, section 12).
    """

    node = "CoPrompt"
    checkpoint = "MultiModalPromptLearner"
    dead_weights = ("model_distill.",)
    views = 2
    takes = ("llm",)
    training_only = ("W", "DISTILL", "SENTENCES")
    outside = {"W": "TRAINER.W", "DISTILL": "TRAINER.DISTILL"}

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH: int = 9
        W: float = 8.0
        DISTILL: str = "cosine"
        SENTENCES: str | Mapping | None = None  # a JSON file

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        if settings.DISTILL not in ("cosine", "mse"):
            raise UserError(f"TRAINER.DISTILL is '{settings.DISTILL}' but must be cosine or mse")
        return shared_prompt("project", settings)

    def setup(self, clip_model, classnames, dataset):
        """Make the adapters; the teacher is made in the first step."""

        def teacher():
            sentences = read_sentences(self.settings.SENTENCES, classnames)
            return Teacher(clip_model, classnames, sentences)

        self._make_teacher = teacher
        self.model.parts = Adapters(clip_model.text_projection.shape[1], image=0.1, text=0.2)

    @cached_property
    def teacher(self) -> Teacher:
        """The untouched CLIP, made in the first step: an evaluation needs no sentences."""
        return self._make_teacher()

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
