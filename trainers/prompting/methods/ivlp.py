"""IVLP: independent vision-language prompts (the baseline of Khattak et al., CVPR 2023)."""

from ..method import Method, register
from ..spec import PromptSpec, expand_templates


@register
class IVLP(Method):
    """One prompt on each side, with lengths and depths of their own and nothing between them."""

    node = "IVLP"
    checkpoint = "VLPromptLearner"
    defaults = {
        "N_CTX_VISION": 2,
        "N_CTX_TEXT": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9,
    }

    @staticmethod
    def point(node) -> PromptSpec:
        return PromptSpec(
            M=int(node.N_CTX_VISION > 0 and node.PROMPT_DEPTH_VISION > 0),  # 0: text alone
            N=1,
            beta=0,
            coupling="independent",
            score="cosine",
            templates=expand_templates(node.CTX_INIT, 1, node.N_CTX_TEXT),
            text_length=node.N_CTX_TEXT,
            vision_length=node.N_CTX_VISION,
            text_depth=node.PROMPT_DEPTH_TEXT,
            vision_depth=node.PROMPT_DEPTH_VISION,
        )
