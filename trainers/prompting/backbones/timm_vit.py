"""Vision Transformers and EVAs of timm, opened: their blocks under the names of OpenAI's class.

Letters: B images, W the width of the encoder, D of the features, F class and register tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import eva
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
        rope = getattr(trunk, "rope", None)
        self.transformer = _transformer(trunk.blocks, None if rope is None else rope.get_embed())
        self.is_evas, self.first = eva.is_evas(self.blocks[0]), first
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

    @property
    def blocks(self) -> Any:
        """The blocks."""
        return self.transformer.resblocks

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W)."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        if hasattr(self, "class_embedding"):
            x = torch.cat([self.class_embedding.expand(len(x), -1, -1), x], 1)
        x = self.ln_pre(x + self.positional_embedding)
        if self.is_evas:
            for block in self.blocks:
                x = eva.run(block, x, self.first)
        else:
            x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        if hasattr(self, "proj"):
            return self.ln_post(x[:, 0]) @ self.proj
        return self.shape.pooled(self, self.ln_post, x)[:, 0]


def _transformer(blocks: Any, rope: Tensor | None) -> nn.Module:
    """Return timm's blocks under the names of OpenAI's class, with LayerScale folded in.

    An EVA's attention gets in addition `norm`, a LayerNorm before its output projection, and
    `rope`, by which the queries and keys of patches are turned.
    """
    b = blocks[0]
    gated = _is(b.mlp, "SwiGLU")
    hidden, W = (b.mlp.fc1_x if gated else b.mlp.fc1).weight.shape
    with torch.device("meta"):
        built = openai_model.Transformer(W, len(blocks), b.attn.num_heads)
        how = W, len(blocks), b.attn.num_heads, hidden, lambda: b.mlp.act, b.norm1.eps
        set_mlps(built, Architecture(*how))
        for block in built.resblocks if gated else ():
            block.mlp.c_fc = nn.Linear(W, 2 * hidden)
    state = {}
    for i, b in enumerate(blocks):
        scales = (_gamma(b, n) for n in ("1", "2"))
        parts = {
            "attn.in_proj_": (_qkv(b.attn), None),
            "attn.out_proj.": ([b.attn.proj], next(scales)),
            "mlp.c_fc.": ([b.mlp.fc1_g, b.mlp.fc1_x] if gated else [b.mlp.fc1], None),
            "mlp.c_proj.": ([b.mlp.fc2], next(scales)),
            "ln_1.": ([b.norm1], None),
            "ln_2.": ([b.norm2], None),
        }
        for name, (layers, gamma) in parts.items():
            weight = torch.cat([layer.weight.detach() for layer in layers])
            bias = torch.cat([_bias(layer) for layer in layers])
            if name == "attn.in_proj_" and getattr(b.attn, "q_bias", None) is not None:
                bias = torch.cat([b.attn.q_bias, b.attn.k_bias, b.attn.v_bias]).detach()
            if gamma is not None:
                weight, bias = gamma[:, None] * weight, gamma * bias
            state[f"resblocks.{i}.{name}weight"], state[f"resblocks.{i}.{name}bias"] = weight, bias
    built.load_state_dict(state, assign=True)
    for block, b in zip(built.resblocks, blocks, strict=True):
        if gated:
            block.mlp.gelu = eva.Gate(clips_norm(b.mlp.norm))
        norm: Any = getattr(b.attn, "norm", None)
        if not _is_empty(norm):
            block.attn.norm = clips_norm(norm)
        if rope is not None:
            block.attn.register_buffer("rope", rope.detach(), persistent=False)
    return built


def _qkv(attn: Any) -> list[Any]:
    """Return the layers that make queries, keys and values, one or three."""
    return [attn.q_proj, attn.k_proj, attn.v_proj] if attn.qkv is None else [attn.qkv]


def _bias(layer: Any) -> Tensor:
    bias: Tensor = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return bias.detach()


def _gamma(block: Any, which: str) -> Tensor | None:
    """Return a LayerScale, the first or the second; EVA's blocks have theirs as a parameter."""
    gamma = getattr(getattr(block, f"ls{which}", None), "gamma", None)
    gamma = getattr(block, f"gamma_{which}", None) if gamma is None else gamma
    return None if gamma is None else gamma.detach()


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


def why_closed(visual: Any) -> str:
    """Return why an EVA cannot be opened, as far as it is known."""
    trunk = getattr(visual, "trunk", visual)
    sums = _is(trunk, "Eva") and _is(trunk.blocks[0], "EvaBlockPostNorm")
    return "its blocks normalise what they add, unlike CLIP's" if sums else ""


def can_open(trunk: Any, resolution: int) -> bool:
    """Return True if a model of timm is a ViT with CLIP's blocks and a known start and end."""
    known = _is(trunk, "VisionTransformer") or (_is(trunk, "Eva") and _turns(trunk))
    if not known or not _is(trunk.patch_embed, "PatchEmbed") or trunk.pos_embed is None:
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


def _turns(trunk: Any) -> bool:
    """Return True if an EVA turns pairs of neighbours by one table for all blocks, or nothing."""
    attn = trunk.blocks[0].attn
    if trunk.rope is None:
        return True
    if not _is(trunk.rope, "RotaryEmbeddingCat") or trunk.rope_mixed or trunk.dynamic_img_size:
        return False
    shape = trunk.patch_embed.num_patches, 2 * attn.head_dim
    return not attn.rotate_half and tuple(trunk.rope.get_embed().shape) == shape


def _is_clips(b: Any) -> bool:
    """Return True if a block of timm computes as CLIP's does, or as EVA's."""
    evas = _is(b, "EvaBlock") and _is(b.attn, "EvaAttention") and _is(b.mlp, "SwiGLU", "Mlp")
    if not (evas or (_is(b, "Block") and _is(b.attn, "Attention") and _is(b.mlp, "Mlp"))):
        return False
    more = [b.attn.q_norm, b.attn.k_norm, getattr(b.attn, "gate", None)]
    more += [] if _is(b.mlp, "SwiGLU") else [b.mlp.norm]
    more += [] if evas else [getattr(b.attn, "norm", None)]
    if evas and b.attn.head_dim * b.attn.num_heads != b.attn.proj.weight.shape[0]:
        return False
    return all(map(_is_empty, more)) and all(
        isinstance(norm, nn.LayerNorm) and norm.weight is not None for norm in (b.norm1, b.norm2)
    )


def _is(module: Any, *names: str) -> bool:
    return type(module).__name__ in names and type(module).__module__.startswith("timm.")


def _is_empty(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)
