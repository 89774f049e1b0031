"""CoOp (Zhou et al., IJCV 2022; arXiv:2109.01134).

Learning to Prompt for Vision-Language Models.
"""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, text_prompt


@register
class CoOp(Method):
    """One learned textual prompt in the first block, from random vectors or words.

    Its context is shared by all classes, or one per class (CSC).
    """

    node = "COOP"
    saves_submodule = True

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Words = ""
        CLASS_TOKEN_POSITION: str = "end"

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return text_prompt(
            settings.N_CTX,
            settings.CTX_INIT,
            class_position=settings.CLASS_TOKEN_POSITION,
            # with words there is one context for all classes
            class_specific=settings.CSC and not settings.CTX_INIT,
        )
