"""UPT: Unified Vision and Language Prompt Learning (Zang et al., 2022; arXiv:2210.07225)."""

from dataclasses import dataclass

from ..checkpoint.public import Public
from ..registry import register
from .maple import MaPLe
from .prompted import Point


@register
class UPT(MaPLe):
    """One unified prompt per depth, mixed by a small transformer layer and split over both sides.

    This form is our own: it was not compared with the authors' code, and its layer starts as the
    identity (docs/methods.md, section 4).
    """

    node = "UPT"
    public = Public(folder="prompt_learner")
    point = Point(M=1, N=1, coupling="unified")

    @dataclass(frozen=True)
    class Settings(MaPLe.Settings):
        """The keys of the node."""

        N_CTX: int = 4
