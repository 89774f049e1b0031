"""C-TPT (Yoon et al., ICLR 2024; arXiv:2403.14119) and O-TPT (CVPR 2025; arXiv:2503.12096).

C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature Dispersion.
O-TPT (Sharifdeen et al.): Orthogonality Constraints for Calibrating Test-time Prompt Tuning in
Vision-Language Models.

Letters: B images in V views, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from ..checkpoint.public import Public
from ..full_precision import no_autocast
from ..node import NotNegative
from ..registry import register
from .tpt import TPT


def concentration(h: torch.Tensor) -> torch.Tensor:
    """Return -mean_k |t_k - mean_i t_i|, minus the dispersion of features (..., K, D)."""
    return -(h - h.mean(-2, keepdim=True)).norm(dim=-1).mean(-1)


def excess(h: torch.Tensor) -> torch.Tensor:
    """Return mean_k |g_k| - 1 with the rows g_k of G = T T', of features T (..., K, D).

    It is the mean distance from the unit vectors after a Householder reflection of each row, which
    the public code of O-TPT makes in (K, K, K) tensors.
    """
    return (h @ h.mT).norm(dim=-1).mean(-1) - 1


def overlap(h: torch.Tensor) -> torch.Tensor:
    """Return |T T' - I|^2 (Frobenius) of features T (..., K, D), as in the paper of O-TPT."""
    return (h @ h.mT - torch.eye(h.shape[-2], device=h.device)).square().sum((-2, -1))


TERMS = {"dispersion": concentration, "released": excess, "frobenius": overlap}


@register
class CTPT(TPT):
    """TPT whose text features are pushed apart while a context is tuned, for calibration.

    As TPT, with H the entropy of the mean prediction over the kept views, and a term o of the K
    normalised text features t_k under the context, the rows of T:

        loss = H + LAMBDA_TERM o
        o    = -mean_k |t_k - mean_i t_i|       TERM dispersion: C-TPT
               mean_k |row k of T T'| - 1       TERM released: O-TPT's code
               |T T' - I|^2 (Frobenius)         TERM frobenius: O-TPT's paper

    With TWO_STEP, a step on H is followed by one on LAMBDA_TERM o, with the same optimiser. The
    first step of AdamW has the size LR whatever the gradient, so LAMBDA_TERM mostly decides signs.

    **Published.** CTX_INIT `a photo of a`; LAMBDA_TERM 50 on ImageNet and the ten data sets; 20 on
    ImageNet-A, V2, R and Sketch, with I_AUGMIX, which also mixes views of the ImageNet family. The
    public code has 20 bins of ECE, tables here have 15.
    """

    node = "CTPT"
    public = Public(folder="ctpt")

    @dataclass(frozen=True)
    class Settings(TPT.Settings):
        """The keys of the node."""

        LAMBDA_TERM: NotNegative = 50.0
        TERM: Literal["dispersion", "released", "frobenius"] = "dispersion"
        TWO_STEP: bool = False
        I_AUGMIX: bool = False

    settings: Settings  # type: ignore[assignment]

    @property
    def test_augmix(self):
        """True for the views of AugMix: as TPT, or with I_AUGMIX on all data sets."""
        return self.settings.I_AUGMIX or super().test_augmix

    @property
    def updates(self):
        """The number of steps of the optimiser for an image."""
        return self.settings.TTA_STEPS * (2 if self.settings.TWO_STEP else 1)

    def term(self, h: torch.Tensor) -> torch.Tensor:
        """Return o of normalised text features (..., K, D)."""
        with no_autocast(h.device.type):
            return TERMS[self.settings.TERM](h.float())

    def objective(self, z, c, kept, step):
        """Return H + LAMBDA_TERM o; with TWO_STEP one of the terms in turn."""
        h, s = self.text_encoder([c]).h, self.settings
        if s.TWO_STEP and step % 2:
            return s.LAMBDA_TERM * self.term(h), kept
        H, kept = self.entropies(z, h, kept)
        return H if s.TWO_STEP else H + s.LAMBDA_TERM * self.term(h), kept

    def loss(self, output, batch):
        """Return the mean over images of what the first step descends; no labels."""
        H = super().loss(output, batch)
        own = self.settings.LAMBDA_TERM * self.term(output.text.h).mean()
        return H if self.settings.TWO_STEP else H + own


@register
class OTPT(CTPT):
    """C-TPT with another term: text features are made orthogonal while a context is tuned.

    CTPT with TERM `released`, the term of the public code; `frobenius` is the paper's, whose
    gradient has nearly the same direction, but another length.

    **Published.** CTX_INIT `a photo of a`; LAMBDA_TERM 18 on ImageNet and the ten data sets; 2 on
    ImageNet-A, V2, R and Sketch, with I_AUGMIX. Accuracy 64.41 and ECE 4.21, means over ImageNet
    and the ten (20 bins, as of C-TPT).
    """

    node = "OTPT"
    public = Public(folder="otpt")

    @dataclass(frozen=True)
    class Settings(CTPT.Settings):
        """The keys of the node."""

        LAMBDA_TERM: NotNegative = 18.0
        TERM: Literal["dispersion", "released", "frobenius"] = "released"

    settings: Settings  # type: ignore[assignment]
