"""CoPrompt: Consistency-guided Prompt Learning for Vision-Language Models (Roy and Etemad, ICLR
2024)."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from ..method import Method, register
from ..model import Parts
from ..regularizers import apart
from ..spec import PromptSpec, shared_prompt
from ..teacher import Teacher, read_sentences


class Adapter(nn.Module):
    """x <- share ReLU(W2 ReLU(W1 x)) + (1 - share) x (..., D), without biases."""

    def __init__(self, dim: int, share: float):
        super().__init__()
        self.share = share
        down, up = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim // 4, dim, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.share * self.fc(x.float()) + (1 - self.share) * x.float()


class Adapters(Parts):
    """One for each side. The direction of what it gives is that for normalised features, too."""

    def __init__(self, dim: int):
        super().__init__()
        self.adapter_image = Adapter(dim, 0.1)
        self.adapter_text = Adapter(dim, 0.2)

    def image(self, features):
        return features._replace(z=F.normalize(self.adapter_image(features.z), dim=-1))

    def text(self, features):
        raw = self.adapter_text(features.raw)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)


@register
class CoPrompt(Method):
    """MaPLe with adapters, consistent with the untouched CLIP on other words and another view.

    L = CE + W (d(h, h0) + d(z, z0)), d the mean cosine distance, or with DISTILL mse the mean
    squared error. z0 is of a second augmentation of the image; h0_k of a sentence about class k
    from the file SENTENCES, whose number is drawn anew in each step.
    """

    node = "CoPrompt"
    checkpoint = "MultiModalPromptLearner"
    dead_weights = ("model_distill.",)
    views = 2
    training_only = ("W", "DISTILL", "SENTENCES")
    outside = {"W": "TRAINER.W", "DISTILL": "TRAINER.DISTILL"}
    defaults = {
        "N_CTX": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH": 9,
        "W": 8.0,
        "DISTILL": "cosine",
        "SENTENCES": None,  # a JSON file
    }

    @staticmethod
    def point(node) -> PromptSpec:
        if node.DISTILL not in ("cosine", "mse"):
            raise UserError(f"TRAINER.DISTILL is '{node.DISTILL}' but must be cosine or mse")
        return shared_prompt("project", node)

    def setup(self, clip_model, classnames, dataset):
        def teacher():
            sentences = read_sentences(self.settings.SENTENCES, classnames)
            return Teacher(clip_model, classnames, sentences)

        self._make_teacher = teacher
        self.model.parts = Adapters(clip_model.text_projection.shape[1])

    @cached_property
    def teacher(self) -> Teacher:
        """Made in the first step: an evaluation needs no sentences."""
        return self._make_teacher()

    def loss(self, output, batch):
        node = self.settings
        sentences = self.teacher.h_each
        h0 = sentences[int(torch.randint(len(sentences), ()))]
        z0 = self.teacher.z(batch.views[1])
        distance = apart if node.DISTILL == "cosine" else F.mse_loss
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "kd_text": node.W * distance(output.text.h[0], h0),
            "kd_image": node.W * distance(output.image.z[:, 0], z0),
        }
