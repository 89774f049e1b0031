"""One residual attention block of CLIP, taken apart so that prompts and shared keys fit between.

The functions run CLIP's own modules and weights; nothing of CLIP is copied or edited.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# States of a position that one block keeps for its backward pass, in units of its width: the
# inputs of both LayerNorms, queries, keys, values and what they attend to, and the MLP's hidden 4.
STATES = 10


def project_qkv(block, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a block's input.

    Args:
        block: a `clip.model.ResidualAttentionBlock`.
        x: (..., W).

    Returns:
        Three tensors (..., W), heads side by side.
    """
    return F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)


def project_q(block, x: torch.Tensor) -> torch.Tensor:
    """Queries alone, where other positions have the keys and values."""
    W = x.shape[-1]
    return F.linear(block.ln_1(x), block.attn.in_proj_weight[:W], block.attn.in_proj_bias[:W])


def project_kv(block, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values alone, of positions whose own output nobody reads."""
    W = x.shape[-1]
    weight, bias = block.attn.in_proj_weight[W:], block.attn.in_proj_bias[W:]
    return F.linear(block.ln_1(x), weight, bias).chunk(2, -1)


def attend(block, q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Scaled dot-product attention over the heads of a block.

    Args:
        q: (S, T, W); k, v: (S, T', W).
        mask: boolean, broadcastable to (S, heads, T, T'); True lets a query see a key.

    Returns:
        (S, T, W), before the output projection.
    """
    heads = block.attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def finish(block, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """The rest of a block: output projection, residuals and MLP; shapes (..., W)."""
    x = x + block.attn.out_proj(attended)
    return x + block.mlp.c_proj(quick_gelu(block.mlp.c_fc(block.ln_2(x))))


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's x * sigmoid(1.702 x), which overwrites x.

    As a SiLU it keeps one tensor for the backward pass instead of two, and passes over memory
    less often.
    """
    return F.silu(x.mul_(1.702)).div_(1.702)


def run(function, recompute: bool, *args):
    """`function(*args)`; with `recompute` its activations are not kept but computed once more."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return function(*args)
