"""Cross-modal adaptation (Lin et al., CVPR 2023; arXiv:2301.06267).

Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.fitting import descent, keep_best, train
from ..capabilities.on_support import Mirrored
from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import IMAGENET
from ..method import Method
from ..node import Fraction, From0, From1, NotNegative, Positive
from ..registry import register
from ..teacher import Teacher
from .clip_adapter import Adapter
from .linear_probe import LinearProbe


@register
class CrossModal(Mirrored, LinearProbe):
    """A linear probe that learns from texts, too: half of each batch is images, half is sentences.

        logits_jk = e^LOGIT w_k . a(z_j),   L = CE over both halves

    a(z) = z, or with CLASSIFIER_HEAD `adapter` a(z) = 0.2 ReLU(B ReLU(A z)) + 0.8 z, which learns
    with w. Images are as they are and, with IMAGE_AUGMENTATION `flip`, mirrored; sentences are one
    a class, on ImageNet and its variants seven. Both are drawn in passes of their own, without the
    short last batch, or all of them if they are fewer than half a batch. w_k is not normalised; it
    starts as the normalised mean of the text features, or with CLASSIFIER_INIT `random` as in
    nn.Linear. MODALITY `uni_modal` draws images alone. Other classes cannot be named.

    ITERS steps of AdamW: the rate is 1e-5 in step 0, LR t / WARMUP_ITER before step WARMUP_ITER,
    then LR (1 + cos(pi (t - WARMUP_ITER) / ITERS)) / 2. With SEARCH_HP the first step 0, EVAL_FREQ,
    2 EVAL_FREQ, .. with the best validation accuracy counts, else the last one. At the end
    w <- (1 - WISEFT) w + WISEFT w_start (WiSE-FT).

    **Published.** LR, WEIGHT_DECAY and BATCH_SIZE by validation accuracy: `linear` of 1e-3, 1e-4;
    0, 0.01, 1e-4; 8, 32; `adapter` of 1e-4 to 1e-7; 0, 1e-3, 1e-5; 8. RN50; WISEFT 0.5 next to 0.

    **Differences.** No grid (`--vary`). The partial form (IMAGE_LAYER_IDX 1) is missing.

    **Checkpoint.** `head.weight`; of the adapter `head.{0.fc.0,0.fc.2,1}.weight`. No public one.
    """

    node = "CROSS_MODAL"
    public = Public(folder="cross_modal", ignored=("IMAGE_LAYER_IDX", "TEXT_LAYER_IDX"))
    rules = MEANS
    class_rows = ("classifier.weight",)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the public code, and its constants."""

        MODALITY: Literal["cross_modal", "uni_modal"] = "cross_modal"
        CLASSIFIER_HEAD: Literal["linear", "adapter"] = "linear"
        CLASSIFIER_INIT: Literal["zeroshot", "random"] = "zeroshot"
        LOGIT: float = 4.60517
        IMAGE_AUGMENTATION: Literal["flip", "none"] = "flip"
        LR: Positive = 0.001
        WEIGHT_DECAY: NotNegative = 0.01
        BATCH_SIZE: From1 = 8
        ITERS: From1 = 12800
        WARMUP_ITER: From0 = 50
        EVAL_FREQ: From1 = 100
        WISEFT: Fraction = 0.0
        SEARCH_HP: bool = True

    settings: Settings  # type: ignore[assignment]

    @property
    def support_passes(self):
        """The images as they are and, with `flip`, mirrored."""
        return 1 + (self.settings.IMAGE_AUGMENTATION == "flip")

    def build(self, clip_model, classnames, dataset):
        """Make a head without rows, and the fixed text features."""
        templates = IMAGENET if dataset.startswith("ImageNet") else ()
        text = class_text(self.settings, classnames, dataset, templates, "raw_mean")
        self.teacher = Teacher(clip_model, classnames, text)
        rows = nn.Linear(self.width, len(classnames), bias=False)
        adapter = self.settings.CLASSIFIER_HEAD == "adapter"
        self.head = nn.Sequential(Adapter(self.width, share=0.2), rows) if adapter else rows
        self.make_room(0)

    @property
    def classifier(self) -> Any:
        """The rows w."""
        return self.head[-1] if isinstance(self.head, nn.Sequential) else self.head

    def text_features(self, contexts):
        """Return the features that w starts from, and keep those of single sentences."""
        _ = self.teacher.h_each  # in the precision of the run, outside of which steps read it
        return self.teacher.text

    def classify(self, z):
        """Return e^LOGIT w_k . a(z_j)."""
        return math.exp(self.settings.LOGIT) * self.head(z)

    @torch.no_grad()
    def take_support(self, features, labels):
        """Start the head, and do all steps unless validation follows."""
        images = F.normalize(features, dim=-1).flatten(0, 1), labels.repeat(len(features))
        texts = self.teacher.h_each.flatten(0, -2), self.teacher.sentences.owners().to(labels)
        self.samples = [images, texts][: 1 + (self.settings.MODALITY == "cross_modal")]
        self.classifier.weight.data = self.teacher.h.clone()
        if self.settings.CLASSIFIER_INIT == "random":
            self.classifier.reset_parameters()
        self.begin = {name: p.detach().clone() for name, p in self.learned().items()}
        if not self.validation_follows:
            for _ in self.steps():
                pass
            self.mix()

    def steps(self) -> Iterator[int]:
        """Do the steps from the start, and yield the number of each after it, from 1."""
        s, samples = self.settings, self.samples
        size = max(1, s.BATCH_SIZE // len(samples))
        draws = [draw_batches(len(y), min(size, len(y))) for _, y in samples]

        def loss(number: int) -> torch.Tensor:
            rows = [next(draw).to(y.device) for draw, (_, y) in zip(draws, samples, strict=True)]
            x, y = (torch.cat([part[i] for part, i in zip(parts, rows, strict=True)])
                    for parts in zip(*samples, strict=True))  # fmt: skip
            return F.cross_entropy(self.classify(x), y)

        def rate(t: int) -> float:
            if t < s.WARMUP_ITER:
                return t / s.WARMUP_ITER if t else 1e-5 / s.LR
            return (1 + math.cos(math.pi * (t - s.WARMUP_ITER) / s.ITERS)) / 2

        learned = self.learned()
        adamw = torch.optim.AdamW(learned.values(), s.LR, weight_decay=s.WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, rate)
        return train(learned, self.begin, descent(loss, adamw, schedule), s.ITERS)

    def mix(self) -> None:
        """Mix the rows with those of the text (WiSE-FT)."""
        self.classifier.weight.data.lerp_(self.teacher.h, self.settings.WISEFT)

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Do the steps from the start, and keep the first best of those that are looked at."""
        z, every = F.normalize(features, dim=-1), self.settings.EVAL_FREQ
        seen = (number - 1 for number in self.steps() if (number - 1) % every == 0)
        best, most = keep_best(
            self.learned(), seen, lambda: int((self.classify(z).argmax(1) == labels).sum())
        )
        self.mix()
        print(
            f"Search: step {best} classifies {most} of {len(labels):,} validation images correctly"
        )


def draw_batches(n: int, size: int) -> Iterator[torch.Tensor]:
    """Yield the rows of batches of n samples, (size,): pass by pass, without the short last one."""
    while True:
        yield from torch.randperm(n)[: n // size * size].split(size)
