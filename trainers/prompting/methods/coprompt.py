"""CoPrompt (Roy and Etemad, ICLR 2024; arXiv:2306.01195).

Consistency-guided Prompt Learning for Vision-Language Models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.class_text import ClassText
from ..marks import FILE
from ..node import NotNegative
from ..registry import register
from ..regularizers import apart
from ..teacher import Teacher, read_sentences
from .clip_adapter import Adapter
from .maple import MaPLe

IMAGE_SHARE, TEXT_SHARE = 0.1, 0.2  # of the adapters' networks; constants of the published code


@register
class CoPrompt(MaPLe):
    """MaPLe with adapters, trained to agree with the untouched CLIP on other words and views.

    MaPLe, with adapters on the features x before normalisation, also in evaluation; no biases, W1
    (D/4, D), W2 (D, D/4):

        A(x) = ReLU(W2 ReLU(W1 x)),   image: 0.1 A(x) + 0.9 x,   text: 0.2 A(x) + 0.8 x
        loss = CE + W [(1 - 1/K sum_k cos(h_k, h0_k)) + (1 - 1/B sum_j cos(z_j, z0_j))]

    DISTILL `mse` takes the mean squared errors of the normalised features. CE and z are of the
    first view; z0 is of a second augmentation of the same image. h0_k is of a sentence about class
    k, written by a language model; each step draws one index for all classes.

    `SENTENCES` is a JSON file `{"class name": ["a sentence", ...], ...}` with lists of the same
    length; sentences under `*`, with `{}` for the name, apply to every class that is not listed.
    `emoji` is the file of the embedded data sets. Only training reads it.

    **Published.** 16 shots, batch 4, rate 0.0035, 8 epochs, two views (`DATALOADER.K_TRANSFORMS 2`)
    with RandAugment, without crop and flip. PROMPT_DEPTH, N_CTX and W differ between data sets:
    `base2new` has the values.

    **Checkpoint.** Names of MaPLe, and `adapter_{image,text}.fc.{0,2}.weight`. In public files CLIP
    and `model_distill.*` are ignored.
    """

    node = "CoPrompt"
    public = Public(
        dead=("model_distill.",),
        outside={"W": "TRAINER.W", "DISTILL": "TRAINER.DISTILL"},
    )
    views = 2
    takes = (FILE,)
    training_only = ("W", "DISTILL", "SENTENCES")

    @dataclass(frozen=True)
    class Settings(MaPLe.Settings):
        """The keys of the node."""

        W: NotNegative = 8.0
        DISTILL: Literal["cosine", "mse"] = "cosine"
        SENTENCES: str | Mapping | None = None  # a JSON file

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make the contexts, an adapter for each side, and the teacher.

        Its sentences are read in the first step: an evaluation needs none.
        """
        super().build(clip_model, classnames, dataset)
        self.adapter_image = Adapter(self.width, IMAGE_SHARE)
        self.adapter_text = Adapter(self.width, TEXT_SHARE)
        self.teacher = Teacher(
            clip_model,
            classnames,
            lambda: ClassText(read_sentences(self.settings.SENTENCES, classnames), classnames),
        )

    def image_features(self, images, contexts):
        """Return the image features, adapted and normalised."""
        features = super().image_features(images, contexts)
        return features._replace(z=F.normalize(self.adapter_image(features.z), dim=-1))

    def text_features(self, contexts):
        """Return the text features, adapted and normalised."""
        features = super().text_features(contexts)
        raw = self.adapter_text(features.raw)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)

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
