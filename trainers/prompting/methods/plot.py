"""PLOT: Prompt Learning with Optimal Transport (Chen et al., ICLR 2023)."""

from ..method import Method, register
from ..spec import PromptSpec
from .coop import CoOp


@register
class PLOT(Method):
    """N of CoOp's prompts, compared with the patches of the unprompted image by transport."""

    node = "PLOT"
    saves_submodule = True
    defaults = {"N": 4, **CoOp.defaults}

    @staticmethod
    def point(node) -> PromptSpec:
        one = CoOp.point(node)
        return one.with_(N=node.N, score="plot", templates=one.templates * node.N)
