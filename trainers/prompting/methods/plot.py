"""PLOT: Prompt Learning with Optimal Transport (Chen et al., ICLR 2023; arXiv:2210.01253)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import need
from ..node import From1
from ..registry import register
from ..transport.released import sinkhorn_released
from .coop import CoOp
from .prompted import Point

LAMBDA = 0.1  # a constant of the published code


@register
class PLOT(CoOp):
    """N prompts as in CoOp, compared by transport with the patches of an image without prompts.

    The score is that of docs/methods.md, section 3. The logits of an image depend on the others of
    its batch a little: as in the public code, the solver stops for all of them together.
    """

    node = "PLOT"
    patches = True
    single = False
    several = "decides"

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of the node."""

        N: From1 = 4

        def __post_init__(self) -> None:
            need(not self.CSC or self.N == 1, f"CSC needs N = 1, but N is {self.N}")

    settings: Settings

    @property
    def point(self):
        """The point of the family: beta is N/A in the paper's Table 1."""
        return Point(M=0, N=self.settings.N, beta=None)

    def logits(self, image, text):
        """Return s <T, S>, S[p, n] = cos(r_j[p], h_k^n); on ImageNet the global logits are added.

        T is the plan for the cost 1 - S between the P patches and the N prompts.
        """
        S = torch.einsum("bpd,nkd->bknp", image.r[:, 0].float(), text.h).transpose(-1, -2)
        T = sinkhorn_released(1 - S, reg=LAMBDA).plan
        scores = (T * S).sum((-2, -1))
        if self.settings.dataset == "ImageNet":
            scores = scores + image.z[:, 0] @ F.normalize(text.raw.mean(0), dim=-1).T
        return self.logit_scale * scores
