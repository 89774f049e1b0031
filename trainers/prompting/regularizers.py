"""Regularisers: terms of a loss that keep prompted features close to those of the untouched CLIP.

h0 and z0 are the features of the untouched CLIP: text and image. The terms are PromptSRC's
(arXiv:2307.06948, section 3.2; docs/all_methods.md). If a side has several prompts, the features of
each are compared with the one feature of the untouched CLIP. Each term takes the model's `Output`
and a `Frozen`, and returns a scalar.
"""

from collections.abc import Mapping
from functools import cached_property

import torch
import torch.nn.functional as F

from .method import Output
from .teacher import Teacher


class Frozen:
    """Features and logits of the untouched CLIP for a batch, computed when they are first read."""

    def __init__(self, teacher: Teacher, images: torch.Tensor):
        self.teacher, self.images = teacher, images

    @property
    def h(self) -> torch.Tensor:
        """h0 (K, D)."""
        return self.teacher.h

    @cached_property
    def z(self) -> torch.Tensor:
        """z0 (B, D)."""
        return self.teacher.z(self.images)

    @cached_property
    def logits(self) -> torch.Tensor:
        """Zero-shot logits (B, K)."""
        return self.teacher.logits(self.z)


def apart(x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """Return 1 - mean cosine of normalised features (..., D)."""
    return 1 - (x.float() * x0).sum(-1).mean()


def scl_text(output: Output, frozen: Frozen) -> torch.Tensor:
    """Return the self-consistency of the text features, a mean L1 distance (PromptSRC)."""
    return F.l1_loss(output.text.h.float(), frozen.h.expand_as(output.text.h))


def scl_image(output: Output, frozen: Frozen) -> torch.Tensor:
    """Return the self-consistency of the image features, a mean L1 distance (PromptSRC)."""
    return F.l1_loss(output.image.z.float(), frozen.z[:, None].expand_as(output.image.z))


def scl_logits(output: Output, frozen: Frozen) -> torch.Tensor:
    """Return the self-consistency of the predictions, KL(q | p) over B * K entries (PromptSRC)."""
    log_p, log_q = output.logits.log_softmax(-1), frozen.logits.log_softmax(-1)
    return F.kl_div(log_p, log_q, reduction="sum", log_target=True) / log_p.numel()


REGULARIZERS = {f.__name__: f for f in (scl_text, scl_image, scl_logits)}


def regularize(
    weights: Mapping[str, float], teacher: Teacher, output: Output, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the terms in `weights` by name, each times its weight, for images (B, 3, H, W)."""
    frozen = Frozen(teacher, images)
    return {name: w * REGULARIZERS[name](output, frozen) for name, w in weights.items()}
