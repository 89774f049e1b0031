"""Encoders that are used as a whole: features come out, and no method puts anything in."""

from typing import Self

import torch
from torch import nn

from .family import Tokenizer

MOST = 1e-4  # of the largest value, by which two ways to compute a feature may differ


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

    @torch.no_grad()
    def example(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return the feature (1, D) of an input; None on `meta`."""
        weights = next(self.parameters(), x)
        return None if weights.is_meta else self(x.to(weights.device))

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def apply(self, fn: object) -> Self:  # type: ignore[override]
        """Change nothing: functions such as OpenAI's `convert_weights` know CLIP's modules only."""
        return self


def example_image(size: int) -> torch.Tensor:
    """Return an image of random pixels, (1, 3, size, size); the same each time."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def example_sentence(words: Tokenizer, length: int = 0) -> torch.Tensor:
    """Return the token ids (1, L) of a sentence, padded to a length if one is given."""
    ids = [i for i in (words.sos, *words.encode("a photo"), words.eos) if i is not None]
    pad = 0 if words.pad is None else words.pad
    return torch.tensor([[*ids, *[pad] * (length - len(ids))][: length or None]])


@torch.no_grad()
def open_if_equal(
    closed: Closed,
    opened: nn.Module | None,
    x: torch.Tensor,
    feature: torch.Tensor | None,
    what: str,
    why: str = "",
) -> nn.Module:
    """Return an opened side where it computes what its package does; else print why not.

    Args:
        closed: the side as a whole.
        opened: the same with CLIP's blocks; None if it cannot have them.
        x: an input (1, ...) of the opened side.
        feature: that of the closed side of it, (1, D); None on `meta`, where nothing is compared.
        what: the side, for the message.
        why: a known reason to leave it closed.
    """
    if opened is not None and feature is None:
        return opened
    if opened is not None and feature is not None and not why:
        gap = float((opened.eval()(x) - feature).abs().max() / feature.abs().max())
        if not gap <= MOST:
            why = f"a feature would differ by {gap:.0e} from that of its package"
    if why:
        print(f"Note: the {what} stays closed: {why}")
    return closed if why or opened is None else opened
