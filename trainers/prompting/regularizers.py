"""Regularisers: terms of a loss that keep prompted features close to those of the untouched CLIP.

h0 and z0 are the features of the untouched CLIP: text and image. `kg` is from KgCoOp
(arXiv:2303.13283), the others are from PromptSRC (arXiv:2307.06948, section 3.2); equations:
docs/all_methods.md (KgCoOp, PromptSRC). If a side has several prompts, the features of each are
compared with the one feature of the untouched CLIP. Each function takes the model's `Output` and a
`Frozen`, and returns a scalar.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F

from .errors import UserError, check_name
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


def kg(output: Output, frozen: Frozen) -> torch.Tensor:
    """Return the knowledge guidance, over all classes (KgCoOp)."""
    return apart(output.text.h, frozen.h)


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


REGULARIZERS = {f.__name__: f for f in (kg, scl_text, scl_image, scl_logits)}
# the published weights
PUBLISHED = {"kg": 8.0, "scl_text": 25.0, "scl_image": 10.0, "scl_logits": 1.0}


def weights_of(names: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """Return the weights of the terms that a config names; without weights, the published ones."""
    for name in names:
        check_name("regulariser", name, REGULARIZERS)
    if len(set(names)) < len(names):
        raise UserError(f"REGULARIZERS names a term twice: {', '.join(names)}")
    if not all(isinstance(w, (int, float)) for w in weights):
        raise UserError(f"REGULARIZER_WEIGHTS is {list(weights)} but must be a list of numbers")
    if weights and len(weights) != len(names):
        raise UserError(
            f"REGULARIZER_WEIGHTS has {len(weights)} numbers for {len(names)} REGULARIZERS: give "
            "one each, or none for the published ones"
        )
    return dict(zip(names, weights or [PUBLISHED[name] for name in names], strict=True))


def regularize(
    weights: Mapping[str, float], teacher: Teacher, output: Output, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the terms in `weights` by name, each times its weight, for images (B, 3, H, W)."""
    frozen = Frozen(teacher, images)
    return {name: w * REGULARIZERS[name](output, frozen) for name, w in weights.items()}
