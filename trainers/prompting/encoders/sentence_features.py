"""Whole sentences, without learned tokens, through CLIP's untouched text encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .sentences import write_sentences
from .sides import need_open
from .text import CHUNK, TextEncoder


@torch.no_grad()
def encode_sentences(
    clip_model: Any, sentences: Sequence[str], projection: torch.Tensor | None = None
) -> torch.Tensor:
    """Return features of whole sentences from CLIP's untouched text encoder, without gradient.

    Args:
        sentences: n sentences, in which `_` reads as a space. The common beginning of a chunk is
            computed once, so order them by template.
        projection: (W, D) in place of CLIP's text projection.

    Returns:
        (n, D), not normalised.
    """
    device, parts = clip_model.logit_scale.device, []
    for i in range(0, len(sentences), CHUNK):
        written = write_sentences(clip_model, ["{}"], sentences[i : i + CHUNK])
        encoder = TextEncoder(clip_model, written).to(device)
        if projection is not None:
            need_open(clip_model, "text", "replaces the text projection")
            encoder.text_projection = nn.Parameter(projection.to(device), requires_grad=False)
        parts.append(encoder().raw[0])
    return torch.cat(parts)
