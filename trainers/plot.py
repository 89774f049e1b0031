"""PLOT: Prompt Learning with Optimal Transport (Chen et al., ICLR 2023)."""

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .prompting.spec import PromptSpec, context_words


@TRAINER_REGISTRY.register()
class PLOT(PromptTrainer):
    """N textual prompts, compared with the patches of the unprompted image by transport."""

    node = "PLOT"
    saves_submodule = True
    defaults = {
        "N": 4,
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": "",
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",
    }

    @staticmethod
    def spec(node) -> PromptSpec:
        words, length = context_words(node)
        return PromptSpec(
            M=0,
            N=node.N,
            beta=0,
            score="plot",
            templates=(words,) * node.N,
            text_length=length,
            text_depth=1,
            class_position=node.CLASS_TOKEN_POSITION,
            class_specific=node.CSC and not node.CTX_INIT,
        )
