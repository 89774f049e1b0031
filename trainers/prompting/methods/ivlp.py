"""IVLP: independent vision-language prompts (a baseline in arXiv:2210.03117)."""

from dataclasses import dataclass

from ..checkpoint.public import Public
from ..method import Method
from ..node import From0, Words
from ..prompts import size_of
from ..registry import register
from .prompted import Point, Prompted


@register
class IVLP(Prompted):
    """One prompt on each side, with separate parameters, lengths and depths."""

    node = "IVLP"
    public = Public(folder="VLPromptLearner")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX_VISION: From0 = 2  # 0 here or for its depth: textual prompts only
        N_CTX_TEXT: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH_VISION: From0 = 9
        PROMPT_DEPTH_TEXT: int = 9

    text_size = size_of("N_CTX_TEXT", "PROMPT_DEPTH_TEXT")
    vision_size = size_of("N_CTX_VISION", "PROMPT_DEPTH_VISION")

    def _point(self) -> Point:
        both = self.settings.N_CTX_VISION > 0 and self.settings.PROMPT_DEPTH_VISION > 0
        return Point(M=int(both), N=1, coupling="independent" if both else "none")

    point = property(_point)
