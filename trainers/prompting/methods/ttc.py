"""TTC (Xing et al., CVPR 2025; arXiv:2503.03613).

CLIP is Strong Enough to Fight Back: Test-time Counterattacks towards Zero-shot Adversarial
Robustness of CLIP.

Letters: B images of pixels x in [0, 1], f CLIP's feature, not normalised.
"""

import zlib
from dataclasses import dataclass

import torch

from ..checkpoint.public import Public
from ..encoders.class_text import SCORES, class_text
from ..encoders.sentences import AroundName
from ..encoders.vision import ImageEncoder
from ..marks import ONE_IMAGE
from ..method import Method
from ..node import Fraction, From0, NotNegative, Positive, clean
from ..registry import register
from ..robustness import gradient, to_images, to_pixels


@register
class TTC(Method):
    """Zero-shot CLIP, whose images are moved away from where an attack may have put them.

    An attacked image is falsely stable: noise moves its feature little. With e = TTC_EPS, noise d_0
    is uniform in -e to e, and each d is cut so that x + d stays in [0, 1]. TTC_STEPS times,

        d <- clamp(d + TTC_STEPSIZE sign(gradient of |f(x + d) - f(x)|^2), -e, e)

    The logits are those of x + d, with

        d = sum_i w_i d_i, w_i ~ exp(BETA i)     if |f(x + d_0) - f(x)| / |f(x)| < TAU_THRES
        d = d_0                                  else, so that the noise stays

    TEMPLATE is the sentence, in which names have small letters and spaces for `-` and `/`; empty:
    that of zero-shot CLIP. The noise depends on the pixels only. `TEST.ATTACK` attacks zero-shot
    CLIP and does not know of this defence, as in the paper; an attack that does would be stronger.

    **Published.** ViT-B/32. With a CLIP that was itself trained on attacked images, the public code
    compares features of the original CLIP with the threshold.
    """

    node = "TTC"
    public = Public(folder="ttc")
    trains = False
    takes = (ONE_IMAGE,)
    rules = SCORES

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the public code."""

        TTC_EPS: Fraction = 4 / 255
        TTC_STEPSIZE: Positive = 1 / 255
        TTC_STEPS: From0 = 2
        TAU_THRES: NotNegative = 0.2
        BETA: NotNegative = 2.0
        TEMPLATE: AroundName = "This is a photo of a {}."

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with one sentence for each class."""
        own = [self.settings.TEMPLATE] if self.settings.TEMPLATE else ()
        names = [clean(name).lower().translate({45: " ", 47: " "}) for name in classnames]
        text = class_text(self.settings, names if own else classnames, dataset, own)
        return text.encoder(clip_model), ImageEncoder(clip_model.visual)

    def noise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return d_0 (B, 3, H, W), drawn from a seed that the pixels of each image determine."""
        drawn = []
        for own in (255 * pixels).round().byte().cpu():
            generator = torch.Generator().manual_seed(zlib.crc32(own.numpy().tobytes()))
            drawn.append(torch.rand(own.shape, generator=generator))
        return self.settings.TTC_EPS * (2 * torch.stack(drawn).to(pixels) - 1)

    def counterattack(
        self, pixels: torch.Tensor, start: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return d (B, 3, H, W) for pixels in [0, 1], and how far d_0 moves the features, (B,).

        `start` is d_0; None draws it.
        """
        s = self.settings
        with torch.inference_mode(False), torch.enable_grad():
            x = pixels.detach().clone()
            f = self.clip_features(to_images(self, x)).detach()
            first = self.noise(x) if start is None else start
            each = [(x + first).clamp(0, 1) - x]
            tau = self._distance(x + each[0], f) / f.norm(dim=1)
            for _ in range(s.TTC_STEPS):
                d = each[-1].clone().requires_grad_()
                g = gradient(self._distance(x + d, f).square().sum(), d)
                d = (each[-1] + s.TTC_STEPSIZE * g.sign()).clamp(-s.TTC_EPS, s.TTC_EPS)
                each.append((x + d).clamp(0, 1) - x)
        w = torch.arange(len(each), dtype=x.dtype, device=x.device).mul(s.BETA).softmax(0)
        mean = torch.einsum("i,ib...->b...", w, torch.stack(each))
        return torch.where((tau < s.TAU_THRES)[:, None, None, None], mean, each[0]), tau.detach()

    def _distance(self, pixels: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """Return how far the features (B, D) of pixels are from f, (B,)."""
        return (self.clip_features(to_images(self, pixels)) - f).norm(dim=1)

    def predict(self, images):
        """Return the output for the images after the counterattack."""
        pixels = to_pixels(self, images)
        return self.output(to_images(self, pixels + self.counterattack(pixels)[0]))
