"""The interfaces of a prompted CLIP: `Output`, which losses read, and `Parts`, for methods."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from ..encoders.added import Added
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from .learner import Contexts


class Output(NamedTuple):
    """The output of a forward pass, for losses.

    logits: (B, K), float32; image and text: the features from which the logits were computed, with
    z (B, M, D) and h (N, K, D), or h (B, K, D) if contexts are conditional on the image.
    """

    logits: torch.Tensor
    image: ImageFeatures
    text: TextFeatures


class Parts(nn.Module):
    """Base class of what a method adds to the prompts, with methods to override; adds nothing.

    Its parameters are trained together with the prompts.

    Attributes:
        prefix: prefix of the parameters' names in public whole-model checkpoints.
        own_classes: None if the method does not need it. A method that treats the classes of its
            training differently sets True in the class; loading a checkpoint for other classes
            then sets it to False.

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
        """Return the name of a parameter in public whole-model checkpoints."""
        return self.prefix + name

    def blocks(self, side: str) -> Mapping[int, Added]:
        """Return the additions to blocks of an encoder, `text` or `image`, by block, from 0."""
        return {}

    def contexts(self, contexts: Contexts) -> Contexts:
        """Change the contexts between the prompt learner and the encoders."""
        return contexts

    def image(self, features: ImageFeatures) -> ImageFeatures:
        """Change the image features between the image encoder and the score."""
        return features

    def text(self, features: TextFeatures) -> TextFeatures:
        """Change the text features between the text encoder and the score."""
        return features

    def logits(
        self,
        logits: torch.Tensor,
        image: ImageFeatures,
        text: TextFeatures,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """Change the logits between the score and the loss, before a CLIP's logit bias is added.

        Args:
            logits: (B, K), float32, of the score.
            image: the image features from which they were computed, z in float32.
            text: the text features, h and `raw` in float32.
            scale: (), CLIP's logit scale.

        Returns:
            (B, K), float32.
        """
        return logits

    def cosines(
        self, image: ImageFeatures, text: TextFeatures
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return cosines for the detection of other classes (TEST.OOD), if not the default ones.

        Returns:
            (B, K) for images and (B, P, K) for their patches. None takes the cosines of the logits
            and the means over the prompts.
        """
        return None
