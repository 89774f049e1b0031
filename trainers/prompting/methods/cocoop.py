"""CoCoOp (Zhou et al., CVPR 2022; arXiv:2203.05557).

Conditional Prompt Learning for Vision-Language Models.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..encoders.sentences import OneTemplate
from ..method import Method, Output
from ..prompts import Contexts
from ..registry import register
from .coop import CoOp

AT_ONCE = 8  # images whose texts an evaluation encodes at a time, to bound the memory


class MetaNet(nn.Module):
    """The network from the image feature to a shift of the context: (B, D) -> (B, W)."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, dim // 16)
        self.linear2 = nn.Linear(dim // 16, width)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the shift."""
        shift: torch.Tensor = self.linear2(self.linear1(z).relu())
        return shift


@register
class CoCoOp(CoOp):
    """CoOp's context, shifted by a small network of the image feature: one text pass per image.

    The features `h` of its output are (B, K, D).

    **Differences.** Trained weights are float32. Public code in fp16 keeps them in half precision,
    in which most of the network's entries do not change in a step.
    """

    node = "COCOOP"
    class_bound = False
    position = "end"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CTX_INIT: OneTemplate = ""

    settings: Settings  # type: ignore[assignment]

    def build(self, clip_model, classnames, dataset):
        """Make the context and the network."""
        super().build(clip_model, classnames, dataset)
        width = self.prompt_learner.ctx.shape[-1]
        self.prompt_learner.meta_net = MetaNet(self.width, width)

    def contexts(self):
        """Return none: they depend on the image."""
        return Contexts()

    def shift_context(self, z: torch.Tensor) -> Contexts:
        """Return a context for each image, ctx + meta_net(z): (B, b, W)."""
        learner = self.prompt_learner
        return Contexts([learner.ctx + learner.meta_net(z)[:, None]])

    def output(self, images):
        """Return the output, with a text for each image and class."""
        return self.from_features(self.image_features(images, Contexts()))

    def from_features(self, image):
        """Return the output for features of images."""
        z = image.z[:, 0].float()
        texts, logits = [], []
        at_once = torch.is_grad_enabled() or torch.compiler.is_compiling()
        for some in [z] if at_once else z.split(AT_ONCE):
            texts.append(self.text_encoder(self.shift_context(some).text))
            logits.append(self.compare(image._replace(z=some[:, None]), texts[-1]))
        h, raw = (torch.cat([getattr(text, name) for text in texts]) for name in ("h", "raw"))
        return Output(torch.cat(logits), image, texts[0]._replace(h=h, raw=raw))

    def logits(self, image, text):
        """Return s cos(z_j, h_jk), h_jk the feature of class k with the context of image j."""
        return self.logit_scale * torch.einsum("bd,bkd->bk", image.z[:, 0], text.h)
