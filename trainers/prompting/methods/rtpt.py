"""R-TPT (Sheng et al., CVPR 2025; arXiv:2504.11195).

R-TPT: Improving Adversarial Robustness of Vision-Language Models through Test-Time Prompt Tuning.

Letters: B images in V views, K classes, W the width of the text encoder.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..full_precision import no_autocast
from ..node import From1, Positive
from ..registry import register
from ..sure_views import entropy
from .tpt import TPT


@register
class RTPT(TPT):
    """TPT whose views each lower their own entropy, and all answer, the more alike the others.

    As TPT, with features z_v of V views, logits l_v = s z_v . h(c) and a context c for each image:

        loss   = mean over kept of H(softmax l_v)      kept: the surest views, as in TPT
        logits = sum_v w_v l_v,  w = softmax(r / WEIGHT_TAU)

    with the tuned c and all views. r_v is the mean of the NEIGHBORS largest cosines of z_v with the
    other views. An attack (`TEST.ATTACK`) is on the context before it adapts, and views are drawn
    from the attacked image in 8 bits.

    **Published.** CTX_INIT `a photo of a`; NEIGHBORS and WEIGHT_TAU are constants there.

    **Differences.** The public code leaves a view out of its own neighbours only if its cosine with
    itself is not rounded below 1, which on a CPU held for two thirds of them. Here it is always
    left out, which moves the logits of the parity file by 0.07.
    """

    node = "RTPT"
    public = Public(folder="rtpt")

    @dataclass(frozen=True)
    class Settings(TPT.Settings):
        """The keys of the node."""

        NEIGHBORS: From1 = 20
        WEIGHT_TAU: Positive = 0.01

    settings: Settings  # type: ignore[assignment]

    @staticmethod
    def uncertainty(logits):
        """Return the mean of the entropies of the views, (B,), from logits (B, V, K)."""
        return entropy(logits).mean(-1)

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        """Return w (B, V) of features z (B, V, D) of untuned CLIP."""
        cosines = z @ z.mT
        cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        r = cosines.topk(self.settings.NEIGHBORS, dim=-1).values.mean(-1)
        return (r / self.settings.WEIGHT_TAU).softmax(-1)

    def answer(self, features, c):
        """Return the output for features (B, V, D) of all views, with contexts (B, n, W)."""
        output, z = self.classify(features[:, 0], c), F.normalize(features, dim=-1)
        with no_autocast(z.device.type):
            each = self.logit_scale * torch.einsum("bvd,bkd->bvk", z, output.text.h.float())
            return output._replace(logits=torch.einsum("bv,bvk->bk", self.weights(z), each))
