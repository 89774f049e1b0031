"""MMP: the name of ALIGN in its authors' published code (NeurIPS 2023; arXiv:2309.13847)."""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec, Words, expand_templates, fixed_sentence


@register
class MMP(Method):
    """ALIGN in its released form, with the name and keys of the published node.

    Visual prompts are projections of the textual ones at every depth, so the published code never
    reads `VISION_PROMPT_DEPTH`. `USECT` chooses another score there, which is not in the paper.
    """

    node = "MMP"
    checkpoint = "MultiModalPromptLearner"
    ignored = ("VISION_PROMPT_DEPTH", "USECT")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"  # several templates are separated by tabs
        TEXT_PROMPT_DEPTH: int = 9
        TEXT_PROMPT_NUMBER: int = 4
        VISION_PROMPT_NUMBER: int = 4
        HIERARCHICAL: bool = True

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        N = settings.TEXT_PROMPT_NUMBER
        return PromptSpec(
            M=settings.VISION_PROMPT_NUMBER,
            N=N,
            beta=float(settings.HIERARCHICAL),
            score="released",
            templates=expand_templates(settings.CTX_INIT, N, settings.N_CTX, keep_fixed=False),
            sentence=fixed_sentence(settings.CTX_INIT),
            text_length=settings.N_CTX,
            vision_length=settings.N_CTX,
            text_depth=settings.TEXT_PROMPT_DEPTH,
            vision_depth=settings.TEXT_PROMPT_DEPTH,
        )
