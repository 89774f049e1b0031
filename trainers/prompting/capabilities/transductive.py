"""The base of methods that classify all test images together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..encoders.class_text import SCORES
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..full_precision import no_autocast
from ..marks import WHOLE
from ..method import Method, Output

NOT_ITS_OWN = "depend on the other test images"


class Seen(NamedTuple):
    """What is kept of a batch until all images are seen: raw (B, D), and prior (B, K) or None."""

    raw: torch.Tensor
    prior: torch.Tensor | None


class Transductive(Method):
    """A method whose prediction for an image depends on all images that it classifies together.

    A subclass defines `predict_all`. The trainer's `test` reads all images in one pass, then takes
    the rows of its logits; `predict` classifies only the images that it gets, which costs accuracy
    if they are few. A temperature, calibration and detection of other classes are left out, since
    the logits of an image are not its own. Without others (`method(images)`), it is zero-shot CLIP.
    """

    joint = False
    rules = SCORES
    takes = (WHOLE,)

    def predict_all(
        self, image: ImageFeatures, text: TextFeatures, prior: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits (Q, K) of Q images, in float32.

        Args:
            image: z (Q, 1, D).
            text: h (1, K, D).
            prior: (Q, K), probabilities of another method; None takes those of image and text.
        """
        raise NotImplementedError

    def prior(self, images: torch.Tensor) -> torch.Tensor | None:
        """Return probabilities (B, K) of another method for a batch; None without one."""
        return None

    @torch.no_grad()
    def see(self, images: torch.Tensor) -> Seen:
        """Return what `transduce` needs of images (B, 3, H, W), or of rows of features (B, D)."""
        return Seen(self.clip_features(images), self.prior(images))

    @torch.no_grad()
    def transduce(self, seen: Sequence[Seen]) -> Output:
        """Return the output for the images of all batches, in their order."""
        text = self.text()
        raw = torch.cat([batch.raw for batch in seen])
        priors = [batch.prior for batch in seen if batch.prior is not None]
        with no_autocast(raw.device.type):
            image = ImageFeatures(F.normalize(raw, dim=-1)[:, None], None, raw=raw[:, None])
            text = text._replace(h=text.h.float(), raw=text.raw.float())
            prior = torch.cat(priors).float() if priors else None
            return Output(self.predict_all(image, text, prior), image, text)

    def predict(self, images):
        """Return the output for these images together, and for no others."""
        return self.transduce([self.see(images)])
