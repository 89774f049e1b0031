"""Regularisers: terms of a loss that keep prompted features close to those of the untouched CLIP.

h0 and z0 are the features of the untouched CLIP: text and image. The terms are PromptSRC's
(arXiv:2307.06948, section 3.2; docs/all_methods.md). If a side has several prompts, the features of
each are compared with the one feature of the untouched CLIP.
"""

import torch
import torch.nn.functional as F

from .method import Output
from .teacher import Teacher


def apart(x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """Return 1 - mean cosine of normalised features (..., D)."""
    return 1 - (x.float() * x0).sum(-1).mean()


def self_consistency(
    teacher: Teacher, output: Output, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the terms of PromptSRC by name, without weights, for images (B, 3, H, W).

    The mean L1 distances of text and image features, and KL(q | p) over B * K entries.
    """
    z0 = teacher.z(images)
    log_p, log_q = output.logits.log_softmax(-1), teacher.logits(z0).log_softmax(-1)
    h, z = output.text.h.float(), output.image.z.float()
    return {
        "scl_text": F.l1_loss(h, teacher.h.expand_as(h)),
        "scl_image": F.l1_loss(z, z0[:, None].expand_as(z)),
        "scl_logits": F.kl_div(log_p, log_q, reduction="sum", log_target=True) / log_p.numel(),
    }
