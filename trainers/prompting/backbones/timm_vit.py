"""Vision Transformers of timm, opened: their blocks under the names of OpenAI's class.

Letters: B images, W the width of the encoder, D of the features, F class and register tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .assemble import Architecture, clips_norm, set_mlps
from .openai_clip import model as openai_model
from .shapes import AnyHead, AttentionPool, Head

POOLS = ("token", "avg")
EMPTY = (nn.Identity, nn.Dropout)


class TimmViT(nn.Module):
    """A ViT of timm (`can_open`) and the layers after it, as an open image encoder.

    With one class token, which one matrix or none projects, it is as OpenAI's; else it has a `head`
    and a `shape`.
    """

    def __init__(self, trunk: Any, layers: Sequence[Any], resolution: int):
        super().__init__()
        first, W = trunk.num_prefix_tokens, trunk.embed_dim
        self.input_resolution = resolution
        self.conv1, self.ln_pre = trunk.patch_embed.proj, clips_norm(trunk.norm_pre)
        positions = trunk.pos_embed.detach()[0]
        if trunk.no_embed_class:
            positions = torch.cat([positions.new_zeros(first, W), positions])
        self.positional_embedding = nn.Parameter(positions)
        leading = [x.detach()[0] for x in (trunk.cls_token, trunk.reg_token) if x is not None]
        if leading:
            self.class_embedding = nn.Parameter(torch.cat(leading))  # (F, W)
        self.transformer = _transformer(trunk.blocks)
        before, token = _is_empty(trunk.fc_norm), trunk.global_pool == "token"
        self.ln_post = clips_norm(trunk.norm if before else trunk.fc_norm)
        linear = len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is None
        self.head: nn.Module
        self.shape: Any
        if _pool(trunk) is not None:
            self.head, self.shape = _head(_pool(trunk)), AttentionPool()
        elif token and first == 1 and (linear or not layers):
            matrix = layers[0].weight.detach().T if layers else torch.eye(W).to(positions)
            self.proj = nn.Parameter(matrix)
        else:
            self.head = nn.Sequential(*layers)
            self.shape = AnyHead(first, not token, before)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W)."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        if hasattr(self, "class_embedding"):
            x = torch.cat([self.class_embedding.expand(len(x), -1, -1), x], 1)
        x = self.ln_pre(x + self.positional_embedding).transpose(0, 1)
        x = self.transformer(x).transpose(0, 1)
        if hasattr(self, "proj"):
            return self.ln_post(x[:, 0]) @ self.proj
        return self.shape.pooled(self, self.ln_post, x)[:, 0]


def _transformer(blocks: Any) -> nn.Module:
    """Return timm's blocks under the names of OpenAI's class, with LayerScale folded in."""
    b = blocks[0]
    hidden, W = b.mlp.fc1.weight.shape
    with torch.device("meta"):
        built = openai_model.Transformer(W, len(blocks), b.attn.num_heads)
        how = W, len(blocks), b.attn.num_heads, hidden, lambda: b.mlp.act, b.norm1.eps
        set_mlps(built, Architecture(*how))
    state = {}
    for i, b in enumerate(blocks):
        parts = {
            "attn.in_proj_": (b.attn.qkv, None),
            "attn.out_proj.": (b.attn.proj, b.ls1),
            "mlp.c_fc.": (b.mlp.fc1, None),
            "mlp.c_proj.": (b.mlp.fc2, b.ls2),
            "ln_1.": (b.norm1, None),
            "ln_2.": (b.norm2, None),
        }
        for name, (part, scale) in parts.items():
            weight = part.weight.detach()
            bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach()
            if hasattr(scale, "gamma"):
                gamma = scale.gamma.detach()
                weight, bias = gamma[:, None] * weight, gamma * bias
            state[f"resblocks.{i}.{name}weight"], state[f"resblocks.{i}.{name}bias"] = weight, bias
    built.load_state_dict(state, assign=True)
    return built


def _head(pool: Any) -> Head:
    """Return SigLIP's attention pool as the head that is known here."""
    W, hidden = pool.proj.weight.shape[0], pool.mlp.fc1.weight.shape[0]
    with torch.device("meta"):
        head = Head(W, pool.num_heads, hidden, pool.norm.eps, pool.mlp.act)
    parts = {"attn.out_proj": pool.proj, "ln": pool.norm, "mlp.0": pool.mlp.fc1}
    state = {"probe": pool.latent.detach()}
    for kind in ("weight", "bias"):
        rows = [getattr(part, kind).detach() for part in (pool.q, pool.kv)]
        state[f"attn.in_proj_{kind}"] = torch.cat(rows)
        for name, part in {**parts, "mlp.2": pool.mlp.fc2}.items():
            state[f"{name}.{kind}"] = getattr(part, kind).detach()
    head.load_state_dict(state, assign=True)
    return head


def open_timm(visual: Any, resolution: int) -> TimmViT | None:
    """Return open_clip's `TimmModel`, or a model of timm itself, opened; None if it differs."""
    trunk = getattr(visual, "trunk", visual)
    if not can_open(trunk, resolution):
        return None
    layers = [trunk.head, *(() if trunk is visual else visual.head)]
    layers = [layer for layer in layers if not isinstance(layer, EMPTY)]
    return None if layers and _pool(trunk) is not None else TimmViT(trunk, layers, resolution)


def can_open(trunk: Any, resolution: int) -> bool:
    """Return True if a model of timm is a ViT with CLIP's blocks and a known start and end."""
    known = _is(trunk, "VisionTransformer") and _is(trunk.patch_embed, "PatchEmbed")
    if not known or trunk.pos_embed is None:
        return False
    patches, proj, pool = trunk.patch_embed, trunk.patch_embed.proj, _pool(trunk)
    start = proj.kernel_size == proj.stride and _is_empty(patches.norm)
    start = start and patches.num_patches == (resolution // proj.kernel_size[0]) ** 2
    if pool is None:
        end = trunk.global_pool in POOLS and not getattr(trunk, "pool_include_prefix", False)
        end = end and (_is_empty(trunk.norm) or _is_empty(trunk.fc_norm))
    else:
        plain = pool.q_norm, pool.k_norm, pool.pos_embed, trunk.fc_norm
        end = all(map(_is_empty, plain)) and pool.latent_len == 1 and trunk.num_prefix_tokens == 0
        end = end and isinstance(pool.q, nn.Linear) and isinstance(pool.norm, nn.LayerNorm)
    return start and end and _is_empty(trunk.patch_drop) and all(map(_is_clips, trunk.blocks))


def _pool(trunk: Any) -> Any:
    return getattr(trunk, "attn_pool", None)


def _is_clips(b: Any) -> bool:
    """Return True if a block of timm computes as CLIP's does."""
    if not (_is(b, "Block") and _is(b.attn, "Attention") and _is(b.mlp, "Mlp")):
        return False
    more = b.attn.q_norm, b.attn.k_norm, b.mlp.norm
    more += tuple(getattr(b.attn, name, None) for name in ("norm", "gate"))
    return all(map(_is_empty, more)) and all(
        isinstance(norm, nn.LayerNorm) and norm.weight is not None for norm in (b.norm1, b.norm2)
    )


def _is(module: Any, name: str) -> bool:
    return type(module).__name__ == name and type(module).__module__.startswith("timm.")


def _is_empty(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)
