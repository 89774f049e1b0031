"""VPT, as the CoOp family applies it to CLIP (Jia et al., ECCV 2022; arXiv:2203.12119).

Visual Prompt Tuning.
"""

from dataclasses import dataclass

from ..encoders.sentences import OneTemplate
from ..method import Method
from ..prompts import size_of
from ..registry import register
from .prompted import Point, Prompted


@register
class VPT(Prompted):
    """One visual prompt, shallow or deep; the sentence of each class is fixed."""

    node = "VPT"
    point = Point(M=1, N=0)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX_VISION: int = 8
        CTX_INIT: OneTemplate = "a photo of a"
        PROMPT_DEPTH_VISION: int = 12

    vision_size = size_of("N_CTX_VISION", "PROMPT_DEPTH_VISION")
