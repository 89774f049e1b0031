"""SOT-GLP (Kizaroglu et al., Digital Signal Processing 2026; arXiv:2603.08347).

SOT-GLP: Sparse Optimal Transport Guided Local-Global Prompt Learning.

Letters as in `gallop`; k patches of an image belong to each class.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..node import From1
from ..prompts import Contexts
from ..registry import register
from ..transport.released import sinkhorn_released
from .gallop import GalLoP

LAMBDA = 0.1  # a constant of the published code


@register
class SOTGLP(PerClass, GalLoP):
    """GalLoP's global prompts, and local ones for each class, to which patches are transported.

    GalLoP's M global prompts, map L, loss of G and detection. Each class has its own N local
    contexts, with features l_kn. Patches come from a path next to the blocks, r_0 = x_0, without
    MLP, v the values of LN1 x_{i-1} for each head:

        r_i   = r_{i-1} + OutProj_i(softmax(v v^T / sqrt d) v)
        r_p   = normalise(visual.proj^T L ln_post(r_p)),   R_pkn = r_p . l_kn
        t_k   = <T, R> / N,   L = CE(s mean_m G) + CE(s t),   logits = s (mean_m G + t) / 2

    An image and a class have the k = max(TOPK) patches with the largest mean_n R. T (k, N) is the
    plan of the cost 1 - R for these, with equal weights, lambda = 0.1 and the stopping rule of
    `MMP` over the whole batch, so the logits of an image depend a little on the others.

    As in the public code, t is divided by N although T sums to 1, and r gets the attention of the
    first block, too, which CLEAN_VV leaves out. LEARN_LOCAL_PROJ False is the form without L.
    INIT_METHOD is `random` (uniform, Xavier) or `gram` (orthonormal across the prompts of a class,
    times 0.001). Other classes cannot be named.

    **Published.** As GalLoP's, with rate 0.005 and batches of 128; the config has the values of
    each data set.

    **Checkpoint.** As GalLoP's, with `local_prompts` (K, N, 4, W), in
    `sotglp_<dataset>_vit_b16_seed<seed>.ckpt`.
    """

    node = "SOTGLP"
    public = Public(folder="sotglp")
    class_bound = True
    class_rows = ("local_prompts",)

    @dataclass(frozen=True)
    class Settings(GalLoP.Settings):
        """The arguments of the public code, in upper case, with the values of its scripts."""

        N_GLOBAL_PROMPTS: From1 = 3
        TOPK: list[int] = field(default_factory=lambda: [10, 10, 10, 10])  # the largest counts
        INIT_METHOD: Literal["random", "gram"] = "random"  # gram: orthogonal, and small
        CLEAN_VV: bool = False

        @property
        def topk(self) -> list[int]:
            """The number of patches, which all local prompts share."""
            return [max(self.TOPK, default=0)] * self.N_LOCAL_PROMPTS

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; learned words differ between classes."""
        text, _ = super().encoders(clip_model, classnames, dataset)
        vv = "clean" if self.settings.CLEAN_VV else "released"
        return (
            TextEncoder(clip_model, text.sentences, class_specific=True),
            ImageEncoder(clip_model.visual, vv=vv),
        )

    def build(self, clip_model, classnames, dataset):
        """Make the prompts and the map of the patches."""
        super().build(clip_model, classnames, dataset)
        s = self.settings
        _, b, W = self.global_prompt.shape
        shape = len(classnames), s.N_LOCAL_PROMPTS, b, W
        if s.INIT_METHOD == "random":
            start = nn.init.xavier_uniform_(torch.empty(shape))
        else:
            orthonormal = torch.linalg.qr(torch.randn(shape).permute(0, 2, 3, 1)).Q
            start = 0.001 * orthonormal.permute(0, 3, 1, 2).contiguous()
        self.local_prompts = nn.Parameter(start, s.LEARN_LOCAL_PROMPTS)

    def contexts(self):
        """Return the contexts of all prompts for each class, global ones first."""
        shared = self.global_prompt[:, None].expand(-1, self.num_classes, -1, -1)
        return Contexts([torch.cat([shared, self.local_prompts.transpose(0, 1)])])

    def of_top_patches(self, R):
        """Return R (B, K, k, N) at the patches of an image and a class."""
        index = R.mean(-1).topk(self.settings.topk[0], dim=1).indices  # (B, k, K)
        return R.gather(1, index[..., None].expand(-1, -1, -1, R.shape[-1])).transpose(1, 2)

    def local_scores(self, image, text):
        """Return t (B, K, 1)."""
        R = self.of_top_patches(self.local_cosines(image, text))
        T = sinkhorn_released(1 - R, reg=LAMBDA).plan
        return (T * R).sum((-2, -1))[..., None] / R.shape[-1]
