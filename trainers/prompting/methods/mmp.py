"""MMP: the name under which ALIGN's authors published it (Wang et al., NeurIPS 2023)."""

from ..method import Method, register
from ..spec import PromptSpec, expand_templates, fixed_sentence


@register
class MMP(Method):
    """ALIGN in its released form, under the published node.

    Visual prompts are projections of the textual ones at every depth, so the published code never
    reads `VISION_PROMPT_DEPTH`. `USECT` switched to another score, which the paper does not have.
    """

    node = "MMP"
    checkpoint = "MultiModalPromptLearner"
    ignored = ("VISION_PROMPT_DEPTH", "USECT")
    defaults = {
        "N_CTX": 2,
        "CTX_INIT": "a photo of a",  # a tab between the words of two prompts
        "PREC": "fp16",
        "TEXT_PROMPT_DEPTH": 9,
        "TEXT_PROMPT_NUMBER": 4,
        "VISION_PROMPT_NUMBER": 4,
        "HIERARCHICAL": True,
    }

    @staticmethod
    def point(node) -> PromptSpec:
        N = node.TEXT_PROMPT_NUMBER
        return PromptSpec(
            M=node.VISION_PROMPT_NUMBER,
            N=N,
            beta=float(node.HIERARCHICAL),
            score="released",
            templates=expand_templates(node.CTX_INIT, N, node.N_CTX, keep_fixed=False),
            sentence=fixed_sentence(node.CTX_INIT),
            text_length=node.N_CTX,
            vision_length=node.N_CTX,
            text_depth=node.TEXT_PROMPT_DEPTH,
            vision_depth=node.TEXT_PROMPT_DEPTH,
        )
