"""Zero-shot CLIP (Radford et al., ICML 2021) with the hand-written sentence of the data set."""

from ..spec import PromptSpec
from ..trainer import PromptTrainer, register


@register
class ZeroshotCLIP(PromptTrainer):
    """No prompts on either side: nothing is trained."""

    node = "ZEROSHOT"
    defaults = {"PREC": "fp16"}

    @staticmethod
    def spec(node) -> PromptSpec:
        return PromptSpec(M=0, N=0, beta=0, score="cosine")
