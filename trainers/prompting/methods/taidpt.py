"""TaI-DPT (Guo et al., CVPR 2023; arXiv:2211.12739).

Texts as Images in Prompt Tuning for Multi-Label Image Recognition.
"""

from dataclasses import dataclass

from ..checkpoint.public import Public
from ..method import Method
from ..node import Fraction, From1, NotNegative
from ..registry import register
from .dualcoop import DualCoOp

SCALE = 4.0  # of cosines, which orders nothing else


@register
class TaIDPT(DualCoOp):
    """A global and a local context, learned from captions: public files are read and evaluated.

    With g_k and l_k of the two sentences of class k, the image's feature z without the positions
    of a ResNet's attention pool, and its regions r_p, each read by itself:

        logits_jk = 4 (G z . g_k + (1 - G) sum_p w_p r_p . l_k),   w = softmax_p(S r_p . l_k)

    G is GL_MERGE_RATE, S is SPATIAL_SCALE_IMAGE. Of a ViT, z is CLIP's and r are patches by the
    value path, which is ours.

    **Published.** S is 40; on NUS-WIDE 4. RN50.

    **Differences.** Training from captions is missing: without a public file
    (MODEL.INIT_WEIGHTS), contexts are random.

    **Checkpoint.** `ctx`, `ctx_double`; `temperature`, `spatial_T` and `ranking_scale` have no
    effect in the published settings.
    """

    node = "TAIDPT"
    public = Public(
        dead=("token_prefix", "token_suffix", "temperature", "spatial_T", "ranking_scale"),
    )
    several = "ranks"
    trains = False
    class_bound = False
    names = "ctx", "ctx_double"  # global and local
    pool = "unplaced"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: From1 = 16
        GL_MERGE_RATE: Fraction = 0.5
        SPATIAL_SCALE_IMAGE: NotNegative = 40.0

    settings: Settings  # type: ignore[assignment]

    def parts(self, image, text):
        """Return global and local logits, (B, K) each."""
        S = image.r[:, 0].float() @ text.h[1].T  # (B, P, K)
        w = (self.settings.SPATIAL_SCALE_IMAGE * S).softmax(1)
        return SCALE * image.z[:, 0] @ text.h[0].T, SCALE * (w * S).sum(1)

    def logits(self, image, text):
        """Return their mean, weighted by GL_MERGE_RATE."""
        whole, local = self.parts(image, text)
        return local + self.settings.GL_MERGE_RATE * (whole - local)
