"""CoCoOp (Zhou et al., CVPR 2022; arXiv:2203.05557).

Conditional Prompt Learning for Vision-Language Models.
"""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, text_prompt


@register
class CoCoOp(Method):
    """CoOp's context, shifted by a small network of the image feature: one text pass per image."""

    node = "COCOOP"
    saves_submodule = True

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CTX_INIT: Words = ""

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return text_prompt(settings.N_CTX, settings.CTX_INIT, image_conditional=True)
