"""VPT, as the CoOp family applies it to CLIP (Jia et al., ECCV 2022; arXiv:2203.12119).

Visual Prompt Tuning.
"""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, fixed_sentence, only_template


@register
class VPT(Method):
    """One visual prompt, shallow or deep; the sentence of each class is fixed."""

    node = "VPT"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX_VISION: int = 8
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH_VISION: int = 12

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return PromptSpec(
            M=1,
            N=0,
            beta=0,
            score="cosine",
            sentence=fixed_sentence(only_template(settings.CTX_INIT)),
            vision_length=settings.N_CTX_VISION,
            vision_depth=settings.PROMPT_DEPTH_VISION,
        )
