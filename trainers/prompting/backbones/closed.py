"""Encoders that are used as a whole: features come out, and no method puts anything in."""

from typing import Self

import torch
from torch import nn


class Closed(nn.Module):
    """A side of a CLIP that is closed: `visual` for images, `text` for sentences, or both.

    Methods that never look inside a side run on it as it is; others are refused
    (`encoders/sides.py`). A frozen encoder with dropout or a BatchNorm stays in eval mode.

    Args:
        inner: a module of another library, or your own: from images (B, 3, H, W), or from token ids
            (n, L) as `Family.tokenizer` pads them, to features (B, D), not normalised. Of a tuple,
            the first is taken.
        resolution: H and W of its images; None for text.

    Examples:
        >>> side = Closed(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16)), resolution=8)
        >>> side(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(self, inner: nn.Module, resolution: int | None = None):
        super().__init__()
        self.inner = inner.eval()
        self.autocast_to: torch.dtype | None = None  # half, with PREC fp16
        if resolution is not None:
            self.input_resolution = resolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (B, D)."""
        if self.autocast_to is None:
            out = self.inner(x)
        else:
            with torch.autocast(x.device.type, dtype=self.autocast_to):
                out = self.inner(x)
        features: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return features.float()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def apply(self, fn: object) -> Self:  # type: ignore[override]
        """Change nothing: functions such as OpenAI's `convert_weights` know CLIP's modules only."""
        return self
