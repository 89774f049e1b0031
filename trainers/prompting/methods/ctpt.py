"""C-TPT (Yoon et al., ICLR 2024; arXiv:2403.14119).

C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature Dispersion.

Letters: B images in V views, K classes.
"""

from dataclasses import dataclass

import torch

from ..errors import not_negative
from ..method import register
from ..transport.precision import no_autocast
from .tpt import TPT


@register
class CTPT(TPT):
    """TPT whose text features are pushed apart while a context is tuned, for calibration.

    As TPT, with H the entropy of the mean prediction over the kept views, and the dispersion d of
    the K normalised text features t_k under the context:

        d    = mean_k |t_k - mean_i t_i|
        loss = H - LAMBDA_TERM d

    With TWO_STEP, a step on H is followed by one on -LAMBDA_TERM d, with the same optimiser. The
    first step of AdamW has the size LR whatever the gradient, so LAMBDA_TERM mostly decides signs.

    **Published.** CTX_INIT `a photo of a`; LAMBDA_TERM 50 on ImageNet and the ten data sets; 20 on
    ImageNet-A, V2, R and Sketch, with I_AUGMIX, which also mixes views of the ImageNet family. The
    public code has 20 bins of ECE (`report --metrics --bins 20`), tables here have 15.

    **Checkpoint.** As TPT: words, or `ctx` of a CoOp.
    """

    node = "CTPT"
    checkpoint = "ctpt"

    @dataclass(frozen=True)
    class Settings(TPT.Settings):
        """The keys of the node."""

        LAMBDA_TERM: float = 50.0
        TWO_STEP: bool = False
        I_AUGMIX: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            not_negative("LAMBDA_TERM", self.LAMBDA_TERM)

    settings: Settings  # type: ignore[assignment]

    @property
    def test_augmix(self):
        """True for the views of AugMix: as TPT, or with I_AUGMIX on all data sets."""
        return self.settings.I_AUGMIX or super().test_augmix

    @property
    def updates(self):
        """The number of steps of the optimiser for an image."""
        return self.settings.TTA_STEPS * (2 if self.settings.TWO_STEP else 1)

    def dispersion(self, h: torch.Tensor) -> torch.Tensor:
        """Return d of normalised text features (..., K, D)."""
        with no_autocast(h.device.type):
            h = h.float()
            return (h - h.mean(-2, keepdim=True)).norm(dim=-1).mean(-1)

    def objective(self, z, c, kept, step):
        """Return H - LAMBDA_TERM d; with TWO_STEP one of the terms in turn."""
        h, s = self.text_encoder([c]).h, self.settings
        if s.TWO_STEP and step % 2:
            return -s.LAMBDA_TERM * self.dispersion(h), kept
        H, kept = self.entropies(z, h, kept)
        return H if s.TWO_STEP else H - s.LAMBDA_TERM * self.dispersion(h), kept

    def loss(self, output, batch):
        """Return the mean over images of what the first step descends; no labels."""
        H = super().loss(output, batch)
        own = self.settings.LAMBDA_TERM * self.dispersion(output.text.h).mean()
        return H if self.settings.TWO_STEP else H - own
