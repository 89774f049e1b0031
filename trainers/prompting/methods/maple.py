"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023; arXiv:2210.03117)."""

from dataclasses import dataclass

from ..capabilities.biased import Biased
from ..checkpoint.public import Public
from ..method import Method
from ..node import Words
from ..prompts import size_of
from ..registry import register
from .prompted import Point, Prompted


@register
class MaPLe(Biased, Prompted):
    """One textual prompt; a linear layer per depth projects it to the visual prompt.

    **Differences.** Trained weights are float32. Public code in fp16 keeps context and first layer
    in half precision, in which most of the layer's entries do not change in a step.
    """

    node = "MAPLE"
    public = Public(folder="MultiModalPromptLearner")
    point = Point(M=1, N=1, coupling="project")
    several = "decides"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH: int = 9

    text_size = vision_size = size_of("N_CTX", "PROMPT_DEPTH")
