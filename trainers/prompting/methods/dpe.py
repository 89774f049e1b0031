"""DPE (Zhang et al., NeurIPS 2024; arXiv:2410.12790).

Dual Prototype Evolving for Test-Time Generalization of Vision-Language Models.

Letters: B images in V views, K classes, P of them with a visual prototype, D the width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..capabilities.at_test_time import AtTestTime
from ..checkpoint.public import Public
from ..encoders.class_text import ClassText, zero_shot_template
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..full_precision import no_autocast
from ..marks import FILE, STREAM
from ..method import Method, Output
from ..node import Fraction, From0, From1, NotNegative, clean
from ..registry import register
from ..sure_views import entropy, marginal_entropy, surest
from ..teacher import sentences_of
from .tda import Cache, templates_of

PUBLISHED = dict.fromkeys(("ImageNet", "ImageNetV2", "ImageNetR", "ImageNetSketch"), "views")
PUBLISHED["ImageNetA"] = "surest"
TAU = 0.01  # of InfoNCE
EPS, DECAY = 1e-3, 0.1  # of AdamW


@register
class DPE(AtTestTime):
    """Text prototypes that evolve over the stream of test images, beside visual ones of a cache.

    t (K, D) starts as h, the normalised mean of the normalised features of all sentences about a
    class: templates as TDA's, and SENTENCES (`{"class name": ["a sentence", ...], ...}`), if given.
    An image with feature q, logits l = SCALE q . n(t) and entropy e enters a cache of SHOT_CAPACITY
    images of least e for each class argmax l. v are the means of a class's cached features, of the
    P classes that have any. Residuals r (K, D) and u (P, D) start as 0 for each image and take
    TTA_STEPS steps, each the first of an AdamW (eps 1e-3, weight decay 0.1), at LR_TEXT, LR_IMAGE:

        w = n(v + u),   S(q) = SCALE q . n(t + r) + ALPHA exp(-BETA (1 - q . w)) onehot
        loss = H(softmax S(q)) + ALIGN CE(w . n(t + r) / 0.01, diagonal)

    The prediction is S with the new r and u. If its H / log2 K is below ENTROPY_THRESHOLD (nats
    over bits, as in the public code), t evolves: at the j-th such image it becomes
    (j t + n(t + r)) / (j + 1), which is not normalised.

    FORM `plain`: q is the feature of the image. `views`: q is the mean feature of the share
    SELECTION_P of BATCH_SIZE views (crops and flips, mixed by AugMix) with least entropy; the
    plain image is classified. `surest`: such a mean is classified. The seed decides the order.

    **Published.** FORM `views` on ImageNet, V2, R and Sketch, `surest` on A, else `plain`; 64
    views. ALPHA, BETA, rates and ALIGN are those of each test set, which tables mark; sentences of
    CuPL. The public code keeps r, u and t in half precision.

    **Cost.** Beside the encoders: with 1,000 classes in the cache an image takes 50 ms of one core,
    50,000 then 40 minutes, and 43 MiB (600 made features of width 512).
    """

    node = "DPE"
    public = Public(folder="dpe")
    trains = False
    stream = True
    test_augmix = True

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the node, with the values for ImageNet."""

        SHOT_CAPACITY: From1 = 3
        ALPHA: NotNegative = 6.0
        BETA: NotNegative = 5.0
        LR_TEXT: NotNegative = 6e-4
        LR_IMAGE: NotNegative = 6e-4
        ALIGN: NotNegative = 0.5
        ENTROPY_THRESHOLD: float = 0.1
        TTA_STEPS: From0 = 1
        BATCH_SIZE: From1 = 64  # views
        SELECTION_P: Fraction = 0.1
        SENTENCES: str | Mapping | None = None  # a JSON file
        FORM: Literal["published", "plain", "views", "surest"] = "published"

    settings: Settings
    start: torch.Tensor
    evolved: torch.Tensor
    means: torch.Tensor

    @property
    def takes(self):
        """The marks: SENTENCES are of a file."""
        return (STREAM, FILE) if self.settings.SENTENCES else (STREAM,)

    @property
    def test_views(self):
        """The number of views of an image."""
        return 1 if self.form == "plain" else self.settings.BATCH_SIZE

    def build(self, clip_model, classnames, dataset):
        """Make h, and an empty cache."""
        s, names = self.settings, [clean(name) for name in classnames]
        self.form = PUBLISHED.get(dataset, "plain") if s.FORM == "published" else s.FORM
        usual = templates_of(dataset) or (zero_shot_template(dataset),)
        lists = [[template.replace("{}", name) for template in usual] for name in names]
        if s.SENTENCES:
            more = sentences_of(s.SENTENCES, classnames)
            lists = [own + given for own, given in zip(lists, more, strict=True)]
        means = ClassText([], names, lists=lists).features(clip_model).raw[0]
        self.register_buffer("start", means, persistent=False)
        self.register_buffer("evolved", means, persistent=False)
        self.register_buffer("means", torch.zeros_like(means), persistent=False)
        self.cache = Cache(len(names), s.SHOT_CAPACITY, self.width, masks=False)
        self.reset()

    def text_features(self, contexts):
        """Return h, with which the stream begins."""
        return TextFeatures(F.normalize(self.start, dim=-1)[None], self.start[None])

    def reset(self):
        """Empty the cache, and let t be h."""
        self.cache.clear()
        self.evolved, self.j = F.normalize(self.start, dim=-1), 0

    @torch.no_grad()
    def predict(self, images):
        """Return the output for the next images of the stream, one after the other."""
        views = [images] if torch.is_tensor(images) else images[: self.test_views]
        z = torch.stack([F.normalize(self.clip_features(view), dim=-1) for view in views], 1)
        with no_autocast(z.device.type):
            logits = torch.stack([self.classify(own) for own in z])
        return Output(logits, ImageFeatures(z[:, :1], None), self.text())

    def choose(self, z: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept views (n, D) of z (V, D) and their logits (n, K) for texts (K, D)."""
        logits = self.logit_scale * z @ texts.T
        if len(z) == 1:
            return z, logits
        kept = surest(logits[None], self.settings.SELECTION_P)[0]
        return z[kept], logits[kept]

    def score(
        self, q: torch.Tensor, texts: torch.Tensor, w: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """Return S(q), (K,), of q (D,), texts (K, D) and w (P, D) of the classes `present` (P,)."""
        near = self.settings.ALPHA * torch.exp(self.settings.BETA * (w @ q - 1))
        return (self.logit_scale * texts @ q).index_add(0, present, near)

    def residuals(
        self, q: torch.Tensor, v: torch.Tensor, present: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return r (K, D) and u (P, D) after the steps, for q (D,) and v (P, D)."""
        s = self.settings
        with torch.inference_mode(False), torch.enable_grad():
            diagonal = torch.arange(len(v), device=v.device)
            q, t, v, present = (x.clone() for x in (q, self.evolved, v, present))
            both, rates = [torch.zeros_like(x) for x in (t, v)], (s.LR_TEXT, s.LR_IMAGE)
            for _ in range(s.TTA_STEPS):
                r, u = (x.requires_grad_() for x in both)
                texts, w = F.normalize(t + r, dim=-1), F.normalize(v + u, dim=-1)
                loss = entropy(self.score(q, texts, w, present))
                if s.ALIGN:
                    loss = loss + s.ALIGN * F.cross_entropy(w @ texts[present].T / TAU, diagonal)
                for x, g, lr in zip(both, torch.autograd.grad(loss, both), rates, strict=True):
                    x.data = x * (1 - lr * DECAY) - lr * g / (g.abs() + EPS)
        return [x.detach() for x in both]

    def classify(self, z: torch.Tensor) -> torch.Tensor:
        """Return the logits (K,) of the next image, of features z (V, D) of its views."""
        kept, plain = self.choose(z, F.normalize(self.evolved, dim=-1))
        q, y, e = kept.mean(0), int(plain.mean(0).argmax()), float(marginal_entropy(plain))
        self.cache.insert(y, e, q, y)
        self.means[y] = self.cache.keys[[row for _, row in self.cache.items[y]]].mean(0)
        present = torch.tensor(sorted(self.cache.items), device=z.device)
        v = self.means[present]
        r, u = self.residuals(q, v, present)
        texts, w = F.normalize(self.evolved + r, dim=-1), F.normalize(v + u, dim=-1)
        shown = self.choose(z, texts)[0].mean(0) if self.form == "surest" else z[0]
        logits = self.score(shown, texts, w, present)
        if entropy(logits) < self.settings.ENTROPY_THRESHOLD * math.log2(self.num_classes):
            self.j += 1
            self.evolved = (self.j * self.evolved + texts) / (self.j + 1)
        return logits
