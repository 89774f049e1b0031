"""The steps of CLIP's residual attention block as functions, for prompts and shared keys.

The functions use the modules and weights of the CLIP; nothing is copied or edited. Letters: B
sequences, Q positions of queries, R positions of keys and values, W the width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..backbones.eva import attended, turn
from .added import NOTHING, Added, Update, linear, summand

SLOPE = 1.702  # of QuickGELU


def project(block, y: torch.Tensor, added: Added, names: str) -> Sequence[torch.Tensor]:
    """Return some of the queries, keys and values (..., W), heads concatenated, of y (`enter`).

    Args:
        y: (..., W).
        names: `qkv`; `q` for positions that attend to the keys of others; `kv` for positions whose
            output is not read.
    """
    W = y.shape[-1]
    rows = slice(W * "qkv".index(names[0]), W * ("qkv".index(names[-1]) + 1))
    weight, bias = block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows]
    if not added.weights:
        return F.linear(y, weight, bias).chunk(len(names), -1)
    return linear(y, weight, bias, [added.weights.get(name) for name in names])


def attend(block, q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Return the scaled dot-product attention over the heads of a block.

    Args:
        q: (B, Q, W), queries.
        k: (B, R, W), keys.
        v: (B, R, W), values.
        mask: boolean, broadcastable to (B, heads, Q, R); True lets a query see a key.
        causal: each position sees itself and those before it; without a mask, and for Q = R.

    Returns:
        (B, Q, W), before the output projection.
    """
    shape = block.attn.num_heads, -1
    q = q.unflatten(-1, shape).transpose(1, 2)
    k = k.unflatten(-1, shape).transpose(1, 2)
    v = v.unflatten(-1, shape).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def output(block, x: torch.Tensor, update: Update | None) -> torch.Tensor:
    """Return the output (..., W) of the attention, of what `attend` returns."""
    return product(block.attn.out_proj, attended(block, x), update)


def class_attention(block, x: torch.Tensor) -> torch.Tensor:
    """Return the attention of position 0 to the others (B, R - 1), a mean over the heads.

    x is the input of the block, (B, R, W), in float32.
    """
    W, heads = x.shape[-1], block.attn.num_heads
    weight, bias = block.attn.in_proj_weight.float(), block.attn.in_proj_bias.float()
    y = block.ln_1(x)
    q = F.linear(y[:, 0], weight[:W], bias[:W]).unflatten(-1, (heads, -1))
    k = turn(block, F.linear(y, weight[W : 2 * W], bias[W : 2 * W]), 1).unflatten(-1, (heads, -1))
    S = torch.einsum("bhd,brhd->bhr", q, k) / q.shape[-1] ** 0.5
    return S.softmax(-1).mean(1)[:, 1:]


def norm(block, name: str, added: Added) -> nn.Module:
    """Return `ln_1` or `ln_2` of a block, or what a method puts in its place."""
    return added.norms.get(name) or getattr(block, name)


def enter(block, added: Added, x: torch.Tensor) -> torch.Tensor:
    """Return y, what the attention reads: ln_1(x), or x where a block normalises sums."""
    return x if getattr(block, "post_norm", False) else norm(block, "ln_1", added)(x)


def finish(block, x, out, y, added: Added = NOTHING) -> torch.Tensor:
    """Return a block's output after the attention: projection, residuals and MLP, (..., W).

    Args:
        x: its input, (..., W).
        out: the output of `attend`, (..., W).
        y: what `enter` returns, (..., W).
    """
    inner = x + _with(output(block, out, added.weights.get("o")), added.after_attention)
    if getattr(block, "post_norm", False):
        inner = norm(block, "ln_1", added)(inner)
        grown = inner + _with(_mlp(block, inner, added), added.after_mlp)
        result = norm(block, "ln_2", added)(grown)
    else:
        grown = _mlp(block, norm(block, "ln_2", added)(inner), added)
        result = inner + _with(grown, added.after_mlp)
    return result if added.beside is None else result + summand(added.beside, x, y)


def _with(out, module: nn.Module | None) -> torch.Tensor:
    return out if module is None else out + summand(module, out)


def product(layer, x, update: Update | None) -> torch.Tensor:
    """Return a linear layer of x, with its update."""
    if update is None:
        return F.linear(x, layer.weight, layer.bias)
    return linear(x, layer.weight, layer.bias, [update])[0]


def _mlp(block, x, added: Added) -> torch.Tensor:
    up, down = block.mlp.c_fc, block.mlp.c_proj
    if not {"fc", "proj"}.isdisjoint(added.weights):
        hidden = block.mlp.gelu(product(up, x, added.weights.get("fc")))
        return product(down, hidden, added.weights.get("proj"))
    if is_called(block.mlp):
        out: torch.Tensor = block.mlp(x)
        return out
    return FrozenMLP.apply(x, up.weight, up.bias, down.weight, down.bias)


def is_called(mlp: Any) -> bool:
    """Return True if the MLP of a block without updates is called, and not run as a function."""
    weights = mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight, mlp.c_proj.bias
    other = type(mlp.gelu).__name__ != "QuickGELU"  # checkouts have copies of the class
    return other or any(w.requires_grad for w in weights)  # of a copy that a method trains


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
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=added.is_random)
    return function(*args)
