"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023; arXiv:2210.03117)."""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, shared_prompt


@register
class MaPLe(Method):
    """One textual prompt; a linear layer per depth projects it to the visual prompt."""

    node = "MAPLE"
    checkpoint = "MultiModalPromptLearner"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH: int = 9

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        return shared_prompt("project", settings)
