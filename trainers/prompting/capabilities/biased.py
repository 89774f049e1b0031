"""The base of methods whose logits have a bias where images have several labels."""

from typing import Any

import torch
from torch import nn

from ..method import Method


class Biased(Method):
    """A method of one label, whose sigmoids mean something with several by a learned bias.

    s cos(z, h) has no zero: nearly all of its sigmoids are 1. With several labels, a learned number
    is added to all logits, which starts at minus the mean logit of the training images before the
    first step (for CoOp from words, the zero-shot one). With one label there is none. This is ours.

    Attributes:
        bias: (), if images have several labels.
    """

    bias: nn.Parameter

    def build(self, clip_model: Any, classnames: Any, dataset: str) -> None:
        """Make the bias, if images have several labels, besides what is learned."""
        super().build(clip_model, classnames, dataset)
        if self.settings.several:
            self.bias = nn.Parameter(torch.zeros(()))

    def compare(self, image: Any, text: Any) -> torch.Tensor:
        """Return the final logits (B, K), with the bias."""
        logits = super().compare(image, text)
        return logits + self.bias if self.settings.several else logits

    @torch.no_grad()
    def start_bias(self, logits: torch.Tensor) -> None:
        """Set the bias to its start, for the logits (n, K) of the training images until now."""
        self.bias.sub_(logits.mean())
