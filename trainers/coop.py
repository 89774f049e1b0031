"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022)."""

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .prompting.spec import PromptSpec, context_words


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """One textual prompt in the first block: random vectors or words, shared or per class."""

    node = "COOP"
    saves_submodule = True
    defaults = {
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
            N=1,
            beta=0,
            score="cosine",
            templates=(words,),
            text_length=length,
            text_depth=1,
            class_position=node.CLASS_TOKEN_POSITION,
            class_specific=node.CSC and not node.CTX_INIT,  # words start one context for all
        )
