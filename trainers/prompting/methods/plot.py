"""PLOT: Prompt Learning with Optimal Transport (Chen et al., ICLR 2023; arXiv:2210.01253)."""

from dataclasses import dataclass

from ..method import Method, register
from ..spec import PromptSpec
from .coop import CoOp


@register
class PLOT(Method):
    """N prompts as in CoOp, compared by transport with the patches of an image without prompts."""

    node = "PLOT"
    saves_submodule = True

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of the node."""

        N: int = 4

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        one = CoOp.point(settings)
        return one.with_(N=settings.N, score="plot", templates=one.templates * settings.N)
