"""TDA (Karmanov et al., CVPR 2024; arXiv:2403.18293).

Efficient Test-Time Adaptation of Vision-Language Models.

Letters: B images in V views, K classes, n items of a cache, D the width of the features.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.at_test_time import AtTestTime
from ..checkpoint.public import Public
from ..encoders.class_text import SCORES, class_text
from ..encoders.templates import CLIP, IMAGENET
from ..encoders.vision import ImageFeatures
from ..errors import need
from ..full_precision import no_autocast
from ..marks import STREAM
from ..method import Method, Output
from ..node import From0, From1, NotNegative
from ..registry import register
from ..sure_views import marginal_entropy, surest
from ..teacher import Teacher

SEVEN = ("ImageNet", "ImageNetA", "ImageNetV2", "Caltech101", "StanfordCars", "SUN397")
EIGHTY = ("ImageNetR", "ImageNetSketch")
IN_VIEWS = ("ImageNetA", "ImageNetV2", "ImageNetR", "ImageNetSketch")
SHARE = 0.1  # of the views that are kept


def templates_of(dataset: str) -> tuple[str, ...]:
    """Return the templates for a data set, empty for zero-shot CLIP's."""
    return IMAGENET if dataset in SEVEN else CLIP if dataset in EIGHTY else ()


class Cache(nn.Module):
    """The surest images of each predicted class: at most C of a class, those of least entropy.

    Attributes:
        items: of each class, pairs of entropy and row, sorted by entropy; images that tie stay in
            the order of their arrival.
        keys: (K C, D), a feature in each row that is used.
        values: (K C, K), what the row says about the classes; without masks (K C,), its class.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, K: int, C: int, D: int, masks: bool):
        super().__init__()
        self.C, self.K, self.n = C, K, 0
        self.items: dict[int, list[tuple[float, int]]] = {}
        self.register_buffer("keys", torch.zeros(K * C, D), persistent=False)
        values = torch.zeros(K * C, K) if masks else torch.zeros(K * C, dtype=torch.long)
        self.register_buffer("values", values, persistent=False)

    def clear(self) -> None:
        """Remove all images."""
        self.items, self.n = {}, 0

    def insert(self, y: int, e: float, key: torch.Tensor, value: torch.Tensor | int) -> None:
        """Add an image of predicted class y and entropy e, if its class has room or a less sure."""
        items = self.items.setdefault(y, [])
        if len(items) < self.C:
            row, self.n = self.n, self.n + 1
        elif e < items[-1][0]:
            _, row = items.pop()
        else:
            return
        items.append((e, row))
        items.sort(key=lambda item: item[0])
        self.keys[row], self.values[row] = key, value

    def likeness(self, z: torch.Tensor, beta: float) -> torch.Tensor:
        """Return sum_i exp(-beta (1 - z . key_i)) value_i, (K,), for a feature z (D,)."""
        keys, values = self.keys[: self.n], self.values[: self.n]
        near = torch.exp(beta * (keys @ z - 1))
        if values.dim() == 1:
            return near.new_zeros(self.K).index_add_(0, values, near)
        return near @ values


@register
class TDA(AtTestTime):
    """Zero-shot logits, plus those of sure test images before, minus those of less sure ones.

    Two caches of test images seen before, by predicted class y = argmax l; l = SCALE z . h, e =
    H(softmax l) in nats. A class has room for SHOT_CAPACITY images; a further one replaces the
    last, if its e is less. The positive cache takes every image, the negative one those with lower
    < e / log2 K < upper (nats over bits, as in the public code). An image enters first; then, over
    the images of each cache,

        logits = l + A+ sum_i exp(-B+ (1 - z . z_i)) onehot(y_i)
                   - A- sum_i exp(-B- (1 - z . z_i)) [m_low < p_i < m_high],   p_i = softmax l_i

    SCALE 0 is the CLIP's own logit scale; the public code multiplies by 100.

    h_k is the normalised mean over sentences (7 on ImageNet, A, V2, Caltech101, StanfordCars and
    SUN397, 80 on R and Sketch, else zero-shot CLIP's). On ImageNet-A, V2, R and Sketch z, l and p
    are means over the tenth of 64 views with least entropy (VIEWS 0), and e is the entropy of p.

    The order of the images is drawn from the seed, so a run of each seed counts, although nothing
    is trained. Every evaluation starts with empty caches, and `reset` empties them. The command
    `predict` takes the images in the order in which it gets them.

    **Published.** The positive ALPHA and BETA are those of each test set, which tables mark.
    """

    node = "TDA"
    rules = SCORES
    public = Public(folder="tda")
    trains = False
    stream = True
    takes = (STREAM,)
    test_augmix = True

    @dataclass(frozen=True)
    class Caches(Method.Scaled):
        """The keys of both caches, with the values for ImageNet."""

        POSITIVE_ENABLED: bool = True
        POSITIVE_SHOT_CAPACITY: From1 = 3
        POSITIVE_ALPHA: NotNegative = 2.0
        POSITIVE_BETA: NotNegative = 5.0
        NEGATIVE_ENABLED: bool = True
        NEGATIVE_SHOT_CAPACITY: From1 = 2
        NEGATIVE_ALPHA: NotNegative = 0.117
        NEGATIVE_BETA: NotNegative = 1.0
        NEGATIVE_ENTROPY_THRESHOLD_LOWER: float = 0.2
        NEGATIVE_ENTROPY_THRESHOLD_UPPER: float = 0.5
        NEGATIVE_MASK_THRESHOLD_LOWER: float = 0.03
        NEGATIVE_MASK_THRESHOLD_UPPER: float = 1.0

        def __post_init__(self) -> None:
            for key in ("NEGATIVE_ENTROPY_THRESHOLD", "NEGATIVE_MASK_THRESHOLD"):
                low, high = (getattr(self, f"{key}_{end}") for end in ("LOWER", "UPPER"))
                need(low < high, f"{key}_LOWER is {low} but must be below {key}_UPPER, {high}")

    @dataclass(frozen=True)
    class Settings(Caches):
        """The keys of the node."""

        VIEWS: From0 = 0

    settings: Settings

    @property
    def test_views(self):
        """The number of views of an image: VIEWS, or that of the public code."""
        return self.settings.VIEWS or (64 if self.settings.dataset in IN_VIEWS else 1)

    def build(self, clip_model, classnames, dataset):
        """Make the text features, and empty caches."""
        s, K = self.settings, len(classnames)
        text = class_text(s, classnames, dataset, templates_of(dataset))
        self.teacher = Teacher(clip_model, classnames, text)
        self.positive = Cache(K, s.POSITIVE_SHOT_CAPACITY, self.width, masks=False)
        self.negative = Cache(K, s.NEGATIVE_SHOT_CAPACITY, self.width, masks=True)

    def text_features(self, contexts):
        """Return the normalised mean of the features over the sentences."""
        return self.teacher.text

    def reset(self):
        """Empty both caches."""
        self.positive.clear()
        self.negative.clear()

    @torch.no_grad()
    def predict(self, images):
        """Return the output for the next images of the stream, one after the other."""
        views = [images] if torch.is_tensor(images) else images
        text = self.text()
        z = torch.stack([F.normalize(self.clip_features(view), dim=-1) for view in views], 1)
        raw = z[:, :1]  # of the plain image
        with no_autocast(z.device.type):
            plain = self.logit_scale * z @ text.h[0].T  # (B, V, K)
            if len(views) > 1:
                kept = surest(plain, SHARE)[..., None]
                z, plain = z.take_along_dim(kept, 1), plain.take_along_dim(kept, 1)
            e, p = marginal_entropy(plain), plain.softmax(-1).mean(1)
            z = z.mean(1)
            logits = self.in_turn(z, plain.mean(1), p, e)
        return Output(logits, ImageFeatures(z[:, None], None, raw=raw), text)

    def in_turn(
        self, z: torch.Tensor, plain: torch.Tensor, p: torch.Tensor, e: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (B, K); each image enters the caches before its own are computed.

        Args:
            z: (B, D), features.
            plain: (B, K), zero-shot logits.
            p: (B, K), their probabilities.
            e: (B,), entropies in nats.
        """
        s, K, logits = self.settings, self.num_classes, plain.clone()
        low, high = s.NEGATIVE_ENTROPY_THRESHOLD_LOWER, s.NEGATIVE_ENTROPY_THRESHOLD_UPPER
        masks = (p > s.NEGATIVE_MASK_THRESHOLD_LOWER) & (p < s.NEGATIVE_MASK_THRESHOLD_UPPER)
        classes = plain.argmax(1)
        rows = zip(classes.tolist(), e.tolist(), (e / math.log2(K)).tolist(), strict=True)
        for j, (y, e_j, ratio) in enumerate(rows):
            if s.POSITIVE_ENABLED:
                self.positive.insert(y, e_j, z[j], y)
                logits[j] += s.POSITIVE_ALPHA * self.positive.likeness(z[j], s.POSITIVE_BETA)
            if s.NEGATIVE_ENABLED:
                if low < ratio < high:
                    self.negative.insert(y, e_j, z[j], masks[j])
                logits[j] -= s.NEGATIVE_ALPHA * self.negative.likeness(z[j], s.NEGATIVE_BETA)
        return logits
