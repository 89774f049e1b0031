"""Terms of a loss that keep prompts near to the untouched CLIP; h0, z0 are its features.

For any numbers of prompts: where a side has several, each is kept near to the one feature of the
untouched CLIP. Each function takes the model's `Output` and a `Frozen` and gives a scalar.
"""

from collections.abc import Mapping
from functools import cached_property

import torch
import torch.nn.functional as F

from .model import Output
from .teacher import Teacher


class Frozen:
    """What the untouched CLIP makes of a batch; nothing is computed before it is asked for."""

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
        """(B, K)."""
        return self.teacher.logits(self.z)


def apart(x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """1 - mean cosine of normalised features (..., D)."""
    return 1 - (x.float() * x0).sum(-1).mean()


def kg(output: Output, frozen: Frozen) -> torch.Tensor:
    """Knowledge guidance, over all classes (KgCoOp, Eq. 4)."""
    return apart(output.text.h, frozen.h)


def scl_text(output: Output, frozen: Frozen) -> torch.Tensor:
    """Self-consistency of the text features, a mean L1 distance (PromptSRC, Eq. 3)."""
    return F.l1_loss(output.text.h.float(), frozen.h.expand_as(output.text.h))


def scl_image(output: Output, frozen: Frozen) -> torch.Tensor:
    """Self-consistency of the image features, a mean L1 distance (PromptSRC, Eq. 3)."""
    return F.l1_loss(output.image.z.float(), frozen.z[:, None].expand_as(output.image.z))


def scl_logits(output: Output, frozen: Frozen) -> torch.Tensor:
    """Self-consistency of the predictions, KL(q | p) over B * K entries (PromptSRC, Eq. 4)."""
    log_p, log_q = output.logits.log_softmax(-1), frozen.logits.log_softmax(-1)
    return F.kl_div(log_p, log_q, reduction="sum", log_target=True) / log_p.numel()


REGULARIZERS = {f.__name__: f for f in (kg, scl_text, scl_image, scl_logits)}


def regularize(
    weights: Mapping[str, float], teacher: Teacher, output: Output, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The terms of a step by name, each with its weight.

    Args:
        weights: of each term that is wanted, by its name in `REGULARIZERS`.
        output: of the model, for images (B, 3, H, W).
    """
    frozen = Frozen(teacher, images)
    return {name: w * REGULARIZERS[name](output, frozen) for name, w in weights.items()}
