"""How an open image encoder unlike OpenAI's ends: its `shape`.

Between its start and its end are CLIP's blocks, which methods work on. The attributes and functions
are those of `encoders.vision.ClassToken`, OpenAI's end.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .openai_clip import model as openai_model


class AttentionPool:
    """SigLIP's: only patches, and a head whose query attends to them all.

    A learned token is a further position that the query attends to. The feature of a position is
    what the head makes of it alone, so that an image of equal patches has their feature.
    """

    name = "attention"
    first = 0
    reads = 0

    def features(
        self, visual: Any, post: nn.Module, x: Tensor, tokens: bool, n: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the features as `ClassToken` does."""
        y = post(x)
        raw = visual.head(y)
        r = F.normalize(visual.head.alone(y[..., n:, :]), dim=-1) if tokens else None
        return raw, F.normalize(raw, dim=-1), r

    def pooled(self, visual: Any, post: nn.Module, x: Tensor) -> Tensor:
        """Return the feature as `ClassToken` does."""
        feature: Tensor = visual.head(post(x)[..., None, :, :])
        return feature

    def alone(self, visual: Any, states: Tensor) -> Tensor:
        """Return features as `ClassToken` does."""
        alone: Tensor = visual.head.alone(states)
        return alone


class AnyHead:
    """CLIPA's and timm's: a class token or a mean, perhaps registers, and a head or a projection.

    A learned token is a further position of the mean.

    Args:
        first: number of class and register tokens.
        mean: True if the feature is the mean of all other positions, not the first one's state.
        before: True if `ln_post` precedes the mean.
        name: as in `ClassToken`.
    """

    def __init__(self, first: int, mean: bool, before: bool, name: str = "head"):
        self.first, self.reads, self.before, self.name = first, 0 if mean else 1, before, name

    def features(
        self, visual: Any, post: nn.Module, x: Tensor, tokens: bool, n: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the features as `ClassToken` does."""
        raw = self.pooled(visual, post, x)[..., 0, :]
        own = x[..., self.first + n :, :]
        r = F.normalize(_project(visual, post(own)), dim=-1) if tokens else None
        return raw, F.normalize(raw, dim=-1), r

    def pooled(self, visual: Any, post: nn.Module, x: Tensor) -> Tensor:
        """Return the feature as `ClassToken` does."""
        if self.reads:
            return _project(visual, post(x[..., :1, :]))
        own = x[..., self.first :, :]
        mean = post(own).mean(-2, True) if self.before else post(own.mean(-2, True))
        return _project(visual, mean)

    def alone(self, visual: Any, states: Tensor) -> Tensor:
        """Return features as `ClassToken` does."""
        if hasattr(visual, "proj"):
            return states @ visual.proj.float()
        dtype = next(visual.head.parameters(), states).dtype  # half, with PREC fp16
        return _project(visual, states.to(dtype))


def _project(visual: Any, states: Tensor) -> Tensor:
    """Return features of states by the projection of an image encoder, or by its head."""
    features: Tensor = states @ visual.proj if hasattr(visual, "proj") else visual.head(states)
    return features


class Head(nn.Module):
    """SigLIP's head: attention of one query to all positions, then an MLP with a residual."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, activation: nn.Module):
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (..., W) of states (..., n, W)."""
        W, heads = x.shape[-1], self.attn.num_heads
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        q = F.linear(self.probe.to(x.dtype), weight[:W], bias[:W])
        k, v = F.linear(x.flatten(0, -3), weight[W:], bias[W:]).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q.expand(k.shape[0], 1, W), k, v)
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._rest(out.reshape(*x.shape[:-2], W))

    def alone(self, x: Tensor) -> Tensor:
        """Return features (..., n, W) of positions, each as if it were the only one."""
        W = x.shape[-1]
        weight, bias = self.attn.in_proj_weight[2 * W :], self.attn.in_proj_bias[2 * W :]
        return self._rest(F.linear(x, weight, bias))

    def _rest(self, attended: Tensor) -> Tensor:
        x = self.attn.out_proj(attended)
        out: Tensor = x + self.mlp(self.ln(x))
        return out


class PatchViT(nn.Module):
    """SigLIP's image encoder: OpenAI's blocks without a class token, and a head."""

    shape = AttentionPool()

    def __init__(self, width: int, layers: int, resolution: int, patch_size: int, head: Head):
        super().__init__()
        self.input_resolution = resolution
        self.ln_pre = nn.Identity()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size)
        self.positional_embedding = nn.Parameter(
            torch.empty((resolution // patch_size) ** 2, width)
        )
        self.transformer = openai_model.Transformer(width, layers, head.attn.num_heads)
        self.ln_post = openai_model.LayerNorm(width)
        self.head = head
