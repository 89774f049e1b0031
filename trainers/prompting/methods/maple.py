"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023)."""

from ..method import Method, register
from ..spec import PromptSpec, shared_prompt


@register
class MaPLe(Method):
    """One textual prompt, projected into the visual one by a linear layer per depth."""

    node = "MAPLE"
    checkpoint = "MultiModalPromptLearner"
    defaults = {"N_CTX": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 9}

    @staticmethod
    def point(node) -> PromptSpec:
        return shared_prompt("project", node)
