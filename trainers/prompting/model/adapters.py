"""Trained networks between the encoders and the score."""

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from .parts import Parts


class Adapter(nn.Module):
    """x <- share ReLU(W2 ReLU(W1 x)) + (1 - share) x (..., D), without biases."""

    def __init__(self, dim: int, share: float):
        super().__init__()
        self.share = share
        down, up = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim // 4, dim, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the same shape (..., D), float32."""
        return self.share * self.fc(x.float()) + (1 - self.share) * x.float()


class Adapters(Parts):
    """One for each side; the length of a feature does not change where its result points.

    Args:
        dim: D of the features.
        image, text: what share the network has in a feature.
    """

    def __init__(self, dim: int, image: float, text: float):
        super().__init__()
        self.adapter_image = Adapter(dim, image)
        self.adapter_text = Adapter(dim, text)

    def image(self, features: ImageFeatures) -> ImageFeatures:
        """Adapt the image features, and normalise them."""
        return features._replace(z=F.normalize(self.adapter_image(features.z), dim=-1))

    def text(self, features: TextFeatures) -> TextFeatures:
        """Adapt the text features, and normalise them."""
        raw = self.adapter_text(features.raw)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)
