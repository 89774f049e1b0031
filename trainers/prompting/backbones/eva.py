"""What EVA's blocks have that CLIP's have not: turned queries and keys, a gate, one more norm.

Letters: B images, R positions, P patches, W the width of the encoder, of a head if it says so.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gate(nn.Module):
    """What is between the two layers of an MLP: SiLU(a) * b of the two halves, and a norm."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., hidden) of the first layer's output (..., 2 * hidden)."""
        a, b = x.chunk(2, -1)
        gated: Tensor = self.norm(F.silu(a) * b)
        return gated


def turn(block: Any, x: Tensor, first: int) -> Tensor:
    """Return queries or keys (B, R, W) with those of patches turned, if the block has a `rope`.

    Args:
        block: its `attn.rope` is (P, 2 * width of a head), sines and cosines.
        x: may end before or among the patches.
        first: the number of positions before the patches, of the class token and of tokens that
            entered. They are not turned, nor are contexts after the patches.
    """
    rope: Tensor | None = getattr(block.attn, "rope", None)
    if rope is None or not (own := x[:, first : first + len(rope)]).shape[1]:
        return x
    sin, cos = rope[: own.shape[1], None].chunk(2, -1)
    own = own.unflatten(-1, (block.attn.num_heads, -1))
    quarter = torch.stack([-own[..., 1::2], own[..., ::2]], -1).flatten(-2)
    own = (own * cos + quarter * sin).to(x.dtype).flatten(-2)
    return torch.cat([x[:, :first], own, x[:, first + own.shape[1] :]], dim=1)


def attended(block: Any, x: Tensor) -> Tensor:
    """Return the output (..., W) of an attention, normalised if the block does it."""
    norm: Any = getattr(block.attn, "norm", None)
    return x if norm is None else norm(x)


def is_evas(block: Any) -> bool:
    """Return True if a block has any of it in its attention, which OpenAI's class lacks."""
    return hasattr(block.attn, "rope") or hasattr(block.attn, "norm")


def run(block: Any, x: Tensor, first: int) -> Tensor:
    """Return the output (B, R, W) of a block without additions."""
    attn = block.attn
    qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    q, k, v = turn(block, qkv[0], first), turn(block, qkv[1], first), qkv[2]
    heads = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    x = x + attn.out_proj(attended(block, out))
    result: Tensor = x + block.mlp(block.ln_2(x))
    return result
