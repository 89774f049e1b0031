"""The steps of CLIP's residual attention block as functions, for prompts and shared keys.

The functions use the modules and weights of the CLIP; nothing is copied or edited. Letters: B
sequences, Q positions of queries, R positions of keys and values, W the width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .added import NOTHING, Added, linear, summand

SLOPE = 1.702  # of QuickGELU


def project_qkv(block, y: torch.Tensor, added: Added = NOTHING) -> Sequence[torch.Tensor]:
    """Return queries, keys and values (..., W), heads concatenated, of y = ln_1(x) (..., W)."""
    return _project(block, y, added, "qkv")


def project_q(block, y: torch.Tensor, added: Added = NOTHING) -> torch.Tensor:
    """Return only the queries (..., W), for positions that attend to the keys of others."""
    return _project(block, y, added, "q")[0]


def project_kv(block, y: torch.Tensor, added: Added = NOTHING) -> Sequence[torch.Tensor]:
    """Return only keys and values (..., W), for positions whose output is not read."""
    return _project(block, y, added, "kv")


def _project(block, y, added, names) -> Sequence[torch.Tensor]:
    W = y.shape[-1]
    rows = slice(W * "qkv".index(names[0]), W * ("qkv".index(names[-1]) + 1))
    weight, bias = block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows]
    return linear(y, weight, bias, [added.weights.get(name) for name in names])


def attend(block, q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Return the scaled dot-product attention over the heads of a block.

    Args:
        block: the block, for its number of heads.
        q: (B, Q, W), queries.
        k: (B, R, W), keys.
        v: (B, R, W), values.
        mask: boolean, broadcastable to (B, heads, Q, R); True lets a query see a key.
        causal: each position sees itself and those before it; without a mask, and for Q = R.

    Returns:
        (B, Q, W), before the output projection.
    """
    heads = block.attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def finish(block, x, attended, y, added: Added = NOTHING) -> torch.Tensor:
    """Return a block's output after the attention: projection, residuals and MLP, (..., W).

    Args:
        block: the block.
        x: its input, (..., W).
        attended: the output of `attend`, (..., W).
        y: ln_1(x), (..., W).
        added: a method's additions to the block.
    """
    out = block.attn.out_proj
    (out,) = linear(attended, out.weight, out.bias, [added.weights.get("o")])
    inner = x + out
    result = inner + _mlp(block, block.ln_2(inner), added)
    return result if added.beside is None else result + summand(added.beside, x, y)


def _mlp(block, x, added: Added) -> torch.Tensor:
    up, down = block.mlp.c_fc, block.mlp.c_proj
    updates = [added.weights.get(name) for name in ("fc", "proj")]
    if any(update is not None for update in updates):
        (hidden,) = linear(x, up.weight, up.bias, updates[:1])
        (out,) = linear(block.mlp.gelu(hidden), down.weight, down.bias, updates[1:])
        return out
    if type(block.mlp.gelu).__name__ != "QuickGELU":  # by name: checkouts have copies of the class
        return block.mlp(x)
    return FrozenMLP.apply(x, up.weight, up.bias, down.weight, down.bias)


class FrozenMLP(torch.autograd.Function):
    """OpenAI's MLP with QuickGELU, x * sigmoid(1.702 x), and frozen weights, in less memory.

    QuickGELU is SiLU(1.702 x) / 1.702. The matrix products apply both factors, which cancel in the
    backward pass. So the only pass over the hidden states is SiLU, and they are stored only once.
    """

    @staticmethod
    def forward(ctx, x, up, up_bias, down, down_bias):
        """Return the MLP's output (..., W) for x (..., W), up (4W, W) and down (W, 4W)."""
        hidden = torch.addmm(up_bias, x.flatten(0, -2), up.T, beta=SLOPE, alpha=SLOPE)
        ctx.save_for_backward(hidden, up.to(hidden.dtype), down.to(hidden.dtype))
        active = F.silu(hidden, inplace=not ctx.needs_input_grad[0])
        return torch.addmm(down_bias, active, down.T, alpha=1 / SLOPE).view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """Return the gradient of x; the weights have none."""
        hidden, up, down = ctx.saved_tensors
        inner = grad.flatten(0, -2) @ down
        torch.ops.aten.silu_backward(inner, hidden, grad_input=inner)
        return (inner @ up).view(grad.shape), None, None, None, None


def hold_weights_in(dtype: torch.dtype, blocks):
    """Convert the weights of the blocks' matrix products once, instead of by autocast each time."""
    for block in blocks:
        attn = block.attn
        for p in (attn.in_proj_weight, attn.in_proj_bias):
            p.data = p.data.to(dtype)
        for layer in (attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
            layer.to(dtype)


def run(function, recompute: bool, *args, added: Added = NOTHING):
    """Return `function(*args, added)`; `recompute` recomputes activations in the backward pass."""
    args += (added,) if added is not NOTHING else ()
    if recompute and torch.is_grad_enabled():
        random = added.is_random
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=random)
    return function(*args)
