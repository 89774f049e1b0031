"""Zero-shot CLIP with the data set's sentence (Radford et al., ICML 2021; arXiv:2103.00020)."""

from dataclasses import dataclass

import torch

from ..checkpoint.public import Public
from ..encoders.class_text import RULES
from ..method import Method
from ..registry import register


@register
class ZeroshotCLIP(Method):
    """No prompts on either side: nothing is trained."""

    node = "ZEROSHOT"
    # so that a training in the same folder does not resume from it
    public = Public(folder="zero_shot")
    trains = False
    several = "ranks"
    rules = RULES

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node: only the precision."""

    def logits(self, image, text):
        """Return s z.h, or the largest of several features of a class."""
        if len(text.h) == 1:
            return super().logits(image, text)
        return self.logit_scale * torch.einsum("bd,nkd->nbk", image.z[:, 0], text.h).amax(0)
