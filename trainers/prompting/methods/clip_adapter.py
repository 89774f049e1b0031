"""CLIP-Adapter (Gao et al., IJCV 2024; arXiv:2110.04544).

CLIP-Adapter: Better Vision-Language Models with Feature Adapters.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders.vision import ImageFeatures
from ..errors import UserError
from ..method import Method, register
from ..model.parts import Parts
from ..spec import PromptSpec, need


class Adapter(nn.Module):
    """A bottleneck network: share ReLU(W2 ReLU(W1 x)) + (1 - share) x, (..., D), without biases."""

    def __init__(self, dim: int, share: float, reduction: int = 4):
        super().__init__()
        if not 1 <= reduction <= dim:
            raise UserError(
                f"REDUCTION is {reduction} but must be from 1 to {dim}, the width of the features"
            )
        self.share, inner = share, dim // reduction
        down, up = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return adapted features of the same shape (..., D), float32."""
        return self.share * self.fc(x.float()) + (1 - self.share) * x.float()


class ImageAdapter(Parts):
    """An adapter of image features; the result's direction does not depend on a feature's norm."""

    def __init__(self, dim: int, share: float, reduction: int):
        super().__init__()
        self.adapter = Adapter(dim, share, reduction)

    def image(self, features: ImageFeatures) -> ImageFeatures:
        """Adapt the image features and normalise them."""
        return features._replace(z=F.normalize(self.adapter(features.z), dim=-1))


@register
class CLIPAdapter(Method):
    """An adapter after the image encoder, mixed with the image feature by RATIO; fixed sentences.

    L = CE. As in the published code, the sentences are those of zero-shot CLIP and the text has no
    adapter (docs/adaptation.md).
    """

    node = "CLIP_ADAPTER"
    checkpoint = "clip_adapter"
    saves_submodule = "adapter"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node; their defaults are constants of the published code."""

        PREC: str = "fp32"
        RATIO: float = 0.2
        REDUCTION: int = 4

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        need(0 <= settings.RATIO <= 1, f"RATIO is {settings.RATIO} but must be from 0 to 1")
        return PromptSpec(M=0, N=0, beta=0, score="cosine")

    def setup(self, clip_model, classnames, dataset):
        """Make the adapter."""
        settings = self.settings
        self.model.parts = ImageAdapter(
            self.model.feature_width, settings.RATIO, settings.REDUCTION
        )
