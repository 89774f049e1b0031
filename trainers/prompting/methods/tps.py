"""TPS (Sui et al., 2024; arXiv:2403.12952).

Just Shift It: Test-Time Prototype Shifting for Zero-Shot Generalization with Vision-Language
Models.

Letters: B images in V views, K classes, D the width of the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F

from ..capabilities.of_views import OfViews
from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.sentences import OneTemplate, fixed_sentence
from ..encoders.templates import CLIP
from ..encoders.text import TextFeatures
from ..errors import need
from ..marks import FILE, ONE_IMAGE
from ..node import Fraction, From0, From1, NotNegative, clean
from ..registry import register
from ..sure_views import marginal_entropy, surest
from ..teacher import normalised_lists, sentences_of
from .tpt import TPT

ENTRIES = 1 << 24  # of shifts that are learned at a time, to bound the memory


@register
class TPS(OfViews):
    """A shift of each class's text feature, learned anew for each test image from its views.

    T_k and C_k are means of normalised text features, over the templates and over the class's
    sentences; w_k = (T_k + C_k) / 2, or, with MACRO_POOLING, their mean weighted by the number of
    texts, or one of them (WITH_TEMPLATES, WITH_CONCEPTS), or the feature of CTX_INIT; t_k = n(w_k).

    Of V views x_v (x_0 plain, the others random crops and flips), from r = 0 (K, D):

        l_v  = s x_v . n(t_k + r_k)
        loss = H(mean of softmax l_v over the int(V SELECTION_P) views of least entropy)

    The views are chosen anew in each of TTA_STEPS steps of AdamW (weight decay 0.01, new for each
    image); the prediction is s x_0 . n(t_k + r_k). With PER_LABEL False all classes share one r.
    The text encoder is not needed while testing. On the ImageNet family the views are crops only,
    elsewhere AugMix mixes them.

    TEMPLATES are the 80 of CLIP if none are given. `SENTENCES` is a JSON file `{"class name": ["a
    sentence", ...], ...}`; sentences under `*`, with `{}` for the name, apply to every class that
    is not listed.

    **Published.** BATCH_SIZE (V) 64, LR 0.005, one step, templates and sentences (of GPT-4), which
    the authors write as `name, which has ...`.
    """

    node = "TPS"
    rules = MEANS
    public = Public(folder="tps")
    test_views = property(attrgetter("settings.BATCH_SIZE"))
    test_augmix = TPT.test_augmix

    @dataclass(frozen=True)
    class Settings(OfViews.Settings):
        """The keys of the node."""

        CTX_INIT: OneTemplate = "a photo of a"
        WITH_TEMPLATES: bool = True
        WITH_CONCEPTS: bool = True
        MACRO_POOLING: bool = False
        TEMPLATES: list[str] = field(default_factory=list)
        SENTENCES: str | Mapping | None = None  # a JSON file
        PER_LABEL: bool = True
        LR: NotNegative = 5e-3
        SELECTION_P: Fraction = 0.1
        TTA_STEPS: From0 = 1
        BATCH_SIZE: From1 = 64

        def __post_init__(self) -> None:
            wrong = [template for template in self.TEMPLATES if "{}" not in template]
            need(not wrong, f"TEMPLATES has {wrong[:1]}, which lacks {{}} for the class name")

    settings: Settings
    kept: torch.Tensor | None

    @property
    def takes(self):
        """The marks: WITH_CONCEPTS has sentences of a file."""
        own = self.settings.WITH_CONCEPTS and self.settings.sentences is None
        return (ONE_IMAGE, FILE) if own else (ONE_IMAGE,)

    def build(self, clip_model, classnames, dataset):
        """Keep what w is computed from when it is first read."""
        self.register_buffer("kept", None, persistent=False)
        self._means = lambda: self.means(clip_model, classnames)

    def means(self, clip_model: Any, classnames: Sequence[str]) -> torch.Tensor:
        """Return w (K, D), the means of the features of the texts about each class."""
        s = self.settings
        if s.sentences is not None:
            return class_text(s, classnames, "").features(clip_model).raw[0]
        templates = s.TEMPLATES or CLIP if s.WITH_TEMPLATES else [fixed_sentence(s.CTX_INIT)]
        texts = []
        if s.WITH_TEMPLATES or not s.WITH_CONCEPTS:
            names = map(clean, classnames)
            texts.append([[t.format(name) for t in templates] for name in names])
        if s.WITH_CONCEPTS:
            texts.append(sentences_of(s.SENTENCES, classnames))
        each = zip(*(normalised_lists(clip_model, lists) for lists in texts), strict=True)
        if s.MACRO_POOLING:
            return torch.stack([torch.cat(parts).mean(0) for parts in each])
        return torch.stack([torch.stack([x.mean(0) for x in parts]).mean(0) for parts in each])

    @property
    def w(self) -> torch.Tensor:
        """The means w (K, D), computed when they are first read."""
        if self.kept is None:
            with torch.inference_mode(False), torch.no_grad():
                self.kept = self._means()
        return self.kept

    def text_features(self, contexts):
        """Return t_k = n(w_k)."""
        return TextFeatures(F.normalize(self.w, dim=-1)[None], self.w[None])

    def from_views(self, x, h):
        """Return s x_0 . n(t_k + r_k)."""
        at_once = max(1, ENTRIES // h.numel())
        parts = [self.shift_features(h, self.shifts(some, h)) for some in x.split(at_once)]
        return self.logit_scale * (torch.cat(parts) @ x[:, 0, :, None])[..., 0]

    def shift_features(self, h: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Return n(t_k + r_k), (B, K, D), for shifts r (B, K or 1, D)."""
        return F.normalize(h + r, dim=-1)

    def entropies(self, x: torch.Tensor, h: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Return the loss of each image, (B,), for features x (B, V, D) of its views."""
        logits = self.logit_scale * x @ self.shift_features(h, r).mT
        kept = surest(logits.detach(), self.settings.SELECTION_P)
        return marginal_entropy(logits.take_along_dim(kept[..., None], 1))

    def shifts(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return r (B, K or 1, D) after the steps."""
        s = self.settings
        with torch.inference_mode(False), torch.enable_grad():
            x, h = x.clone(), h.clone()
            r = x.new_zeros(len(x), len(h) if s.PER_LABEL else 1, x.shape[-1], requires_grad=True)
            optimizer = torch.optim.AdamW([r], s.LR, weight_decay=0.01)
            for _ in range(s.TTA_STEPS):
                (r.grad,) = torch.autograd.grad(self.entropies(x, h, r).sum(), r)
                optimizer.step()
        return r.detach()
