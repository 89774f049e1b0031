"""Lets the image encoder of a CLIP read larger or smaller images than its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import need


@torch.no_grad()
def interpolate_positions(visual: Any, size: int) -> None:
    """Let an image encoder read images (3, size, size), by positions that are interpolated.

    Those of the patches of a transformer, or of the attention pool of a ResNet, are a grid, which
    is interpolated (bicubic, as DualCoOp does); the others stay.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> visual = load_clip("emoji").visual
        >>> interpolate_positions(visual, 128)
        >>> len(visual.positional_embedding)  # the class token, and 16 x 16 patches
        257
    """
    own = visual.input_resolution
    if size == own:
        return
    holder = getattr(visual, "attnpool", visual)
    places: torch.Tensor = holder.positional_embedding
    first = getattr(getattr(visual, "shape", None), "first", 1)
    grid = round((len(places) - first) ** 0.5)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    need(
        not any(hasattr(block.attn, "rope") for block in blocks),
        "INPUT.INTERPOLATE is True, but this CLIP turns its patches by a table for images of "
        f"{own} pixels: set it to False",
    )
    patch = own // grid
    need(
        size > 0 and size % patch == 0,
        f"INPUT.SIZE is {size}, but this CLIP reads patches of {patch} pixels: take a multiple, "
        f"such as {max(1, round(size / patch)) * patch}",
    )
    new = size // patch
    image = places[first:].float().unflatten(0, (grid, grid)).permute(2, 0, 1)[None]
    image = F.interpolate(image, (new, new), mode="bicubic", align_corners=False)
    moved = torch.cat([places[:first].float(), image[0].flatten(1).T]).to(places.dtype)
    holder.positional_embedding = nn.Parameter(moved, requires_grad=False)
    visual.input_resolution = size
