"""CoOp (Zhou et al., IJCV 2022; arXiv:2109.01134).

Learning to Prompt for Vision-Language Models.
"""

from dataclasses import dataclass
from typing import Literal

from ..capabilities.biased import Biased
from ..checkpoint.public import Public
from ..encoders.sentences import OneTemplate
from ..method import Method
from ..node import From0
from ..registry import register
from .prompted import Point
from .text_prompted import TextPrompted


@register
class CoOp(Biased, TextPrompted):
    """One learned textual prompt in the first block, from random vectors or words.

        h_k = normalise(g([v_1] .. [v_b] [class k])),   logits = s cos(z, h_k),   L = CE

    The context v of N_CTX tokens is shared by all classes, or one per class (CSC).
    """

    node = "COOP"
    public = Public(submodule="prompt_learner")
    point = Point(M=0, N=1)
    several = "decides"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: From0 = 16  # without words from 1
        CSC: bool = False
        CTX_INIT: OneTemplate = ""
        CLASS_TOKEN_POSITION: Literal["end", "middle", "front"] = "end"

    def contexts(self):
        """Return the context v, (1, b, W), or (1, K, b, W) of classes of their own."""
        return self.prompt_learner()

    def logits(self, image, text):
        """Return s cos(z_j, h_k)."""
        return self.logit_scale * image.z[:, 0] @ text.h[0].T
