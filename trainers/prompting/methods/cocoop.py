"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022)."""

from ..spec import PromptSpec, text_prompt
from ..trainer import PromptTrainer, register


@register
class CoCoOp(PromptTrainer):
    """CoOp's context, shifted by a network of the image feature: one text pass per image."""

    node = "COCOOP"
    saves_submodule = True
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}

    @staticmethod
    def spec(node) -> PromptSpec:
        return text_prompt(node, image_conditional=True)
