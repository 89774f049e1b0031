"""VPT: Visual Prompt Tuning (Jia et al., ECCV 2022), as the CoOp family applies it to CLIP."""

from ..method import Method, register
from ..spec import PromptSpec, fixed_sentence, only_template


@register
class VPT(Method):
    """One visual prompt, shallow or deep; the sentence of each class is fixed."""

    node = "VPT"
    defaults = {
        "N_CTX_VISION": 8,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 12,
    }

    @staticmethod
    def point(node) -> PromptSpec:
        return PromptSpec(
            M=1,
            N=0,
            beta=0,
            score="cosine",
            sentence=fixed_sentence(only_template(node.CTX_INIT)),
            vision_length=node.N_CTX_VISION,
            vision_depth=node.PROMPT_DEPTH_VISION,
        )
