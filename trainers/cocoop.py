"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022)."""

from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .prompting.spec import PromptSpec, context_words


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """CoOp's context, shifted by a network of the image feature: one text pass per image."""

    node = "COCOOP"
    saves_submodule = True
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}

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
            image_conditional=True,
        )
