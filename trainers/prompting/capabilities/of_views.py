"""The base of methods that classify an image by the features of several views of it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..encoders.class_text import SCORES, class_text
from ..encoders.sentences import OneTemplate, fixed_sentence
from ..encoders.vision import ImageEncoder, ImageFeatures
from ..full_precision import no_autocast
from ..marks import ONE_IMAGE
from ..method import Method, Output
from .at_test_time import AtTestTime


class OfViews(AtTestTime):
    """A method that learns nothing before it sees a test image, in several views.

    A subclass defines `from_views` and `test_views`. Without views (`method(images)`), it is
    zero-shot CLIP.
    """

    trains = False
    joint = False
    rules = SCORES
    takes = (ONE_IMAGE,)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The key that every such method has."""

        CTX_INIT: OneTemplate = ""  # the sentence without the class; empty: that of the data set

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with one sentence for each class."""
        words = self.settings.CTX_INIT
        own = [fixed_sentence(words)] if words else ()
        text = class_text(self.settings, classnames, dataset, own)
        return text.encoder(clip_model), ImageEncoder(clip_model.visual)

    def from_views(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of features x (B, V, D) of views, the plain one first, and h (K, D).

        In float32; B images that are independent of each other.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, images):
        """Return the output for the images, from all views of each."""
        views = [images] if torch.is_tensor(images) else images
        raw, text = torch.stack([self.clip_features(view) for view in views], 1), self.text()
        with no_autocast(raw.device.type):
            x = F.normalize(raw, dim=-1)
            logits = self.from_views(x, text.h[0].float())
        return Output(logits, ImageFeatures(x[:, :1], None, raw=raw[:, :1]), text)
