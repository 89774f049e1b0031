"""PLOT: Prompt Learning with Optimal Transport (Chen et al., ICLR 2023)."""

from ..spec import PromptSpec
from ..trainer import PromptTrainer, register
from .coop import CoOp


@register
class PLOT(PromptTrainer):
    """N of CoOp's prompts, compared with the patches of the unprompted image by transport."""

    node = "PLOT"
    saves_submodule = True
    defaults = {"N": 4, **CoOp.defaults}

    @staticmethod
    def spec(node) -> PromptSpec:
        one = CoOp.spec(node)
        return one.with_(N=node.N, score="plot", templates=one.templates * node.N)
