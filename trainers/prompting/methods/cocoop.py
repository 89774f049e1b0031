"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022)."""

from ..method import Method, register
from ..spec import PromptSpec, text_prompt


@register
class CoCoOp(Method):
    """CoOp's context, shifted by a network of the image feature: one text pass per image."""

    node = "COCOOP"
    saves_submodule = True
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}

    @staticmethod
    def point(node) -> PromptSpec:
        return text_prompt(node.N_CTX, node.CTX_INIT, image_conditional=True)
