"""CLIP-Adapter (Gao et al., IJCV 2024; arXiv:2110.04544).

CLIP-Adapter: Better Vision-Language Models with Feature Adapters.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.public import Public
from ..encoders.class_text import MEANS
from ..method import Method
from ..node import Fraction, From1
from ..registry import register


class Adapter(nn.Module):
    """A bottleneck network: share ReLU(W2 ReLU(W1 x)) + (1 - share) x, (..., D), without biases."""

    def __init__(self, dim: int, share: float, reduction: int = 4):
        super().__init__()
        self.share, inner = share, dim // reduction
        down, up = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return adapted features of the same shape (..., D), float32."""
        return self.share * self.fc(x.float()) + (1 - self.share) * x.float()


@register
class CLIPAdapter(Method):
    """An adapter after the image encoder, mixed with the image feature by RATIO; fixed sentences.

    No biases, W1 (D / REDUCTION, D), W2 (D, D / REDUCTION):

        x' = RATIO ReLU(W2 ReLU(W1 x)) + (1 - RATIO) x,   z' = normalise(x'),   L = CE

    The adapter is homogeneous, so x may be normalised before. As in the public code, the sentences
    are those of zero-shot CLIP and the text has no adapter.

    **Published.** RATIO, REDUCTION and fp32 are constants of the public code, which has no config
    and refers to CoOp: the configs have CoOp's values.

    **Checkpoint.** `fc.0.weight`, `fc.2.weight`, in `clip_adapter`.
    """

    node = "CLIP_ADAPTER"
    rules = MEANS
    public = Public(folder="clip_adapter", submodule="adapter")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node; their defaults are constants of the published code."""

        PREC: str = "fp32"
        RATIO: Fraction = 0.2
        REDUCTION: From1 = 4

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make the adapter."""
        self.adapter = Adapter(self.width, self.settings.RATIO, self.settings.REDUCTION)

    def image_features(self, images, contexts):
        """Return the image features, adapted and normalised."""
        features = super().image_features(images, contexts)
        return features._replace(z=F.normalize(self.adapter(features.z), dim=-1))
