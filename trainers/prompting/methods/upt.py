"""UPT: Unified Vision and Language Prompt Learning (Zang et al., 2022)."""

from ..method import Method, register
from ..spec import PromptSpec, shared_prompt


@register
class UPT(Method):
    """One unified prompt a depth, mixed by a light transformer layer and split over both sides.

    The authors published no code; the layer starts as the identity (docs/methods.md, section 4).
    """

    node = "UPT"
    defaults = {"N_CTX": 4, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 9}

    @staticmethod
    def point(node) -> PromptSpec:
        return shared_prompt("unified", node)
