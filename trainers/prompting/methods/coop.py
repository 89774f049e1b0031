"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022)."""

from ..method import Method, register
from ..spec import PromptSpec, text_prompt


@register
class CoOp(Method):
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
    def point(node) -> PromptSpec:
        return text_prompt(
            node.N_CTX,
            node.CTX_INIT,
            class_position=node.CLASS_TOKEN_POSITION,
            class_specific=node.CSC and not node.CTX_INIT,  # words start one context for all
        )
