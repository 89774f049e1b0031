"""IVLP: independent vision-language prompts (a baseline in arXiv:2210.03117)."""

from dataclasses import dataclass

from ..errors import not_negative
from ..method import Method, register
from ..node import Words
from ..prompts import Size
from .align import Family, Point


@register
class IVLP(Family):
    """One prompt on each side, with separate parameters, lengths and depths."""

    node = "IVLP"
    checkpoint = "VLPromptLearner"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX_VISION: int = 2  # 0 here or for its depth: textual prompts only
        N_CTX_TEXT: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH_VISION: int = 9
        PROMPT_DEPTH_TEXT: int = 9

        def __post_init__(self) -> None:
            for key in ("N_CTX_VISION", "PROMPT_DEPTH_VISION"):
                not_negative(key, getattr(self, key))

    @property
    def point(self) -> Point:  # type: ignore[override]
        """One prompt on each side."""
        both = self.settings.N_CTX_VISION > 0 and self.settings.PROMPT_DEPTH_VISION > 0
        return Point(M=int(both), N=1, coupling="independent" if both else "none")

    @property
    def text_size(self) -> Size:  # type: ignore[override]
        """The size of the textual contexts."""
        s, keys = self.settings, ("N_CTX_TEXT", "PROMPT_DEPTH_TEXT")
        return Size(s.N_CTX_TEXT, s.PROMPT_DEPTH_TEXT, keys)

    @property
    def vision_size(self) -> Size:  # type: ignore[override]
        """The size of the visual contexts."""
        s, keys = self.settings, ("N_CTX_VISION", "PROMPT_DEPTH_VISION")
        return Size(s.N_CTX_VISION, s.PROMPT_DEPTH_VISION, keys)
