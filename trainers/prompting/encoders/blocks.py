"""One residual attention block of CLIP, taken apart so that prompts and shared keys fit between.

The functions run CLIP's own modules and weights; nothing of CLIP is copied or edited. Letters here:
B sequences, Q positions that look, R positions that are looked at, W the width.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# States of a position that one block keeps for its backward pass, in units of its width: the
# inputs of both LayerNorms, queries, keys, values and what they attend to, and the MLP's hidden 4.
STATES = 10
SLOPE = 1.702  # of QuickGELU


def project_qkv(block, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values (..., W), heads side by side, of a block's input (..., W)."""
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.chunk(3, -1)
    return q, k, v


def project_q(block, x: torch.Tensor) -> torch.Tensor:
    """Queries alone, where other positions have the keys and values."""
    W = x.shape[-1]
    return F.linear(block.ln_1(x), block.attn.in_proj_weight[:W], block.attn.in_proj_bias[:W])


def project_kv(block, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values alone, of positions whose own output nobody reads."""
    W = x.shape[-1]
    weight, bias = block.attn.in_proj_weight[W:], block.attn.in_proj_bias[W:]
    k, v = F.linear(block.ln_1(x), weight, bias).chunk(2, -1)
    return k, v


def attend(block, q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Scaled dot-product attention over the heads of a block.

    Args:
        block: the block, for its number of heads.
        q: (B, Q, W), queries.
        k: (B, R, W), keys.
        v: (B, R, W), values.
        mask: boolean, broadcastable to (B, heads, Q, R); True lets a query see a key.
        causal: without a mask, and Q = R: each position sees itself and those before it.

    Returns:
        (B, Q, W), before the output projection.
    """
    heads = block.attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def finish(block, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """The rest of a block: output projection, residuals and MLP; shapes (..., W)."""
    x = x + block.attn.out_proj(attended)
    fc, proj = block.mlp.c_fc, block.mlp.c_proj
    if type(block.mlp.gelu).__name__ != "QuickGELU":  # the name in every copy of OpenAI's class
        return x + block.mlp(block.ln_2(x))
    return x + FrozenMLP.apply(block.ln_2(x), fc.weight, fc.bias, proj.weight, proj.bias)


class FrozenMLP(torch.autograd.Function):
    """OpenAI's MLP, with QuickGELU x * sigmoid(1.702 x), whose weights have no gradient.

    QuickGELU is SiLU(1.702 x) / 1.702. The matrix products take the two factors along, and in the
    backward pass they cancel: nothing but SiLU itself passes over the hidden states, and they are
    kept once.
    """

    @staticmethod
    def forward(ctx, x, up, up_bias, down, down_bias):
        """x: (..., W); up: (4W, W); down: (W, 4W)."""
        hidden = torch.addmm(up_bias, x.flatten(0, -2), up.T, beta=SLOPE, alpha=SLOPE)
        ctx.save_for_backward(hidden, up.to(hidden.dtype), down.to(hidden.dtype))
        active = F.silu(hidden, inplace=not ctx.needs_input_grad[0])
        return torch.addmm(down_bias, active, down.T, alpha=1 / SLOPE).view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """The gradient of x; the weights have none."""
        hidden, up, down = ctx.saved_tensors
        inner = grad.flatten(0, -2) @ down
        torch.ops.aten.silu_backward(inner, hidden, grad_input=inner)
        return (inner @ up).view(grad.shape), None, None, None, None


def hold_weights_in(dtype: torch.dtype, blocks):
    """Convert the weights of the blocks' matrix products, which autocast else does at each."""
    for block in blocks:
        attn = block.attn
        for p in (attn.in_proj_weight, attn.in_proj_bias):
            p.data = p.data.to(dtype)
        for linear in (attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
            linear.to(dtype)


def run(function, recompute: bool, *args):
    """`function(*args)`; with `recompute` its activations are not kept but computed once more."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return function(*args)
