"""Seams of a prompted CLIP: what a loss reads of it, and what a method adds to it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from ..encoders.added import Added
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from .learner import Contexts


class Output(NamedTuple):
    """What a loss may read of a forward pass.

    logits: (B, K), float32; image: z (B, M, D), r; text: h (N, K, D), or (B, K, D) where contexts
    are conditional on the image, s. Features are those that the logits were computed from.
    """

    logits: torch.Tensor
    image: ImageFeatures
    text: TextFeatures


class Parts(nn.Module):
    """Trained parts beside the prompts, none here; a method replaces what it needs.

    Attributes:
        prefix: what stands before the parameters' names in public whole-model checkpoints.
        own_classes: whether the class names are those that it was trained on: True in the class of
            a method that treats these in another way, which reads it; a checkpoint that is loaded
            for other classes makes it False. None for all others.

    Examples:
        >>> class Scaled(Parts):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.ones(()))
        ...
        ...     def image(self, features):
        ...         return features._replace(z=self.factor * features.z)
        >>> Scaled().image(ImageFeatures(torch.ones(1, 1, 2), None)).z.tolist()
        [[[1.0, 1.0]]]
    """

    prefix = ""
    own_classes: bool | None = None

    def public_name(self, name: str) -> str:
        """The name of a parameter in public whole-model checkpoints."""
        return self.prefix + name

    def blocks(self, side: str) -> Mapping[int, Added]:
        """Additions inside the encoder of a side, `text` or `image`: by block, from 0."""
        return {}

    def contexts(self, contexts: Contexts) -> Contexts:
        """Between the prompt learner and the encoders."""
        return contexts

    def image(self, features: ImageFeatures) -> ImageFeatures:
        """Between the image encoder and the score."""
        return features

    def text(self, features: TextFeatures) -> TextFeatures:
        """Between the text encoder and the score."""
        return features

    def logits(
        self,
        logits: torch.Tensor,
        image: ImageFeatures,
        text: TextFeatures,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """Between the score and the loss, before the logit bias of a CLIP that has one.

        Args:
            logits: (B, K), float32, of the score.
            image: the features that they were computed from, z in float32.
            text: likewise, h and `raw` in float32.
            scale: (), CLIP's logit scale.

        Returns:
            (B, K), float32.
        """
        return logits

    def cosines(
        self, image: ImageFeatures, text: TextFeatures
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Cosines for the detection of other classes (TEST.OOD), if logits have others.

        Returns:
            (B, K) of images, and (B, P, K) of their patches; None takes those of the logits, and
            the means over the prompts.
        """
        return None
