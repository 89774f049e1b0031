"""UPT: Unified Vision and Language Prompt Learning (Zang et al., 2022; arXiv:2210.07225)."""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, shared_prompt


@register
class UPT(Method):
    """One unified prompt per depth, mixed by a small transformer layer and split over both sides.

    This form is our own: it was not compared with the authors' code, and its layer starts as the
    identity (docs/methods.md, section 4).
    """

    node = "UPT"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 4
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH: int = 9

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return shared_prompt("unified", settings)
