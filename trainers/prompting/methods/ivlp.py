"""IVLP: independent vision-language prompts (a baseline in arXiv:2210.03117)."""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, expand_templates


@register
class IVLP(Method):
    """One prompt on each side, with separate parameters, lengths and depths."""

    node = "IVLP"
    checkpoint = "VLPromptLearner"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX_VISION: int = 2
        N_CTX_TEXT: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH_VISION: int = 9
        PROMPT_DEPTH_TEXT: int = 9

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return PromptSpec(
            M=int(settings.N_CTX_VISION > 0 and settings.PROMPT_DEPTH_VISION > 0),  # 0: text only
            N=1,
            beta=0,
            coupling="independent",
            score="cosine",
            templates=expand_templates(settings.CTX_INIT, 1, settings.N_CTX_TEXT),
            text_length=settings.N_CTX_TEXT,
            vision_length=settings.N_CTX_VISION,
            text_depth=settings.PROMPT_DEPTH_TEXT,
            vision_depth=settings.PROMPT_DEPTH_VISION,
        )
