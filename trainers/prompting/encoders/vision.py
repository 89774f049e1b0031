"""The prompted image encoder."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from ..spec import PromptSpec
from ..transport.precision import no_autocast
from . import blocks
from .added import NONE, NOTHING, Additions, let_in, summand


class ImageFeatures(NamedTuple):
    """The image features that scores read.

    z: (B, M, D) prompt-level features, M = 1 without prompts; r: (B, M, P + b, D) token-level
    features (of all positions but CLS and tokens that entered), or None. Both are L2-normalised.

    Some methods ask for outputs of the last block after `ln_post`, before the projection to D:
    states: (B, M, 1 + n, W) of the first 1 + n positions (`PromptSpec.states`); values: (B, M, P,
    W) of the patches, each attending only to itself (`PromptSpec.values`; a ResNet has D for W).

    untouched: (B, 1, D) z without additions, only in training (`PromptSpec.untouched`).
    """

    z: torch.Tensor
    r: torch.Tensor | None
    states: torch.Tensor | None = None
    values: torch.Tensor | None = None
    untouched: torch.Tensor | None = None


class ImageEncoder(nn.Module):
    """CLIP's image encoder under M prompts: an image passes through it once per prompt.

    Args:
        visual: the `visual` module of a CLIP (see `backbones`); its modules are used, not copied.
        spec: the method.
        patches: True to compute the token-level features.

    Raises:
        UserError: the backbone is a ResNet but the method has visual prompts or reads states, or
            the depth exceeds the encoder's.
    """

    def __init__(self, visual, spec: PromptSpec, patches: bool):
        super().__init__()
        self.visual = visual
        self.spec = spec
        self.patches = patches
        self.recompute = False  # activations of the blocks, in the backward pass
        self.is_vit = hasattr(visual, "transformer")
        if not self.is_vit and spec.M:
            raise UserError(
                "The backbone is a ResNet, which cannot take the visual prompts of this method: "
                "choose a ViT, or a method without visual prompts"
            )
        if not self.is_vit and spec.states:
            raise UserError(
                "The backbone has a ResNet for images but the method reads states of a "
                "transformer: choose a ViT"
            )
        if self.is_vit and spec.M:
            layers = len(visual.transformer.resblocks)
            if spec.vision_depth > layers:
                raise UserError(
                    f"The visual prompt depth is {spec.vision_depth} but the image encoder of this "
                    f"backbone has {layers} blocks: lower the method's key for it, such as DEPTH "
                    "or PROMPT_DEPTH"
                )

    @property
    def width(self) -> int:
        """W, the width of the encoder."""
        return self.visual.conv1.weight.shape[0]

    def check(self, images: torch.Tensor) -> None:
        """Refuse images that this encoder cannot read.

        Raises:
            ValueError: the images have another shape, or pixels that are nan or infinite. Pixels
                are checked on the CPU only: on another device the host would have to wait.
        """
        size = self.visual.input_resolution
        if images.dim() != 4 or images.shape[1:] != (3, size, size) or not len(images):
            raise ValueError(
                f"images has shape {tuple(images.shape)} but must be (B, 3, {size}, {size}), B at "
                "least 1"
            )
        look = images.device.type == "cpu" and not torch.compiler.is_compiling()
        if look and not images.sum(dtype=torch.float32).isfinite():
            raise UserError(
                "images has pixels that are nan or infinite: check how they were read and "
                "normalised"
            )

    def forward(
        self,
        images,
        contexts: list[torch.Tensor] | None = None,
        added: Additions = NONE,
        unit: bool = True,
    ) -> ImageFeatures:
        """Encode images under every visual prompt.

        Args:
            images: (B, 3, H, W), normalised.
            contexts: the visual contexts (M, b, W) for each depth i < J; None if M = 0. A later
                depth may have fewer tokens, which replace the last ones.
            added: a method's additions to the blocks.
            unit: normalise the features; if False, token-level features are not computed.

        Returns:
            `ImageFeatures`.
        """
        dtype = self.visual.conv1.weight.dtype
        images = images.to(dtype)
        if not self.is_vit:
            return self._resnet(images, unit)
        v = self.visual
        x = v.conv1(images).to(dtype).flatten(2).transpose(1, 2)  # (B, P, W)
        cls = v.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([cls, x], dim=1) + v.positional_embedding.to(x.dtype)
        x = v.ln_pre(x)  # LayerNorm is per token: once for the image tokens of all prompts
        B, P, M = x.shape[0], x.shape[1] - 1, len(contexts[0]) if contexts else 1
        x = x[:, None].expand(B, M, *x.shape[1:])
        if contexts:
            ctx = v.ln_pre(contexts[0].to(x.dtype)).expand(B, *contexts[0].shape)
            x = torch.cat([x, ctx], dim=2)
        x = x.flatten(0, 1)  # (B*M, 1+P+b, W)
        n = 0  # tokens that have entered after CLS
        layers = v.transformer.resblocks
        branch = min(added, default=len(layers) - 1) if self.training else None
        untouched = None
        for i, block in enumerate(layers):
            here = added.get(i, NOTHING)
            if self.spec.untouched and i == branch:
                untouched = self._from(i, x)
            if here.before is not None:
                x = x + summand(here.before, x)
            if contexts and 1 <= i < len(contexts):  # deep prompts replace the last b states
                ctx = contexts[i].to(x.dtype)
                ctx = ctx.expand(B, *ctx.shape).flatten(0, 1)
                x = torch.cat([x[:, : -ctx.shape[1]], ctx], dim=1)
            x, n = let_in(here.enter, x, n)
            recompute = self.recompute and (x.requires_grad or here is not NOTHING)
            if i + 1 < len(layers):
                x = blocks.run(self._block, recompute, block, x, added=here)
        places = x.shape[1] if self.patches else 1 + self.spec.states
        patches = slice(1 + n, 1 + n + P) if self.spec.values else None
        x, values = blocks.run(self._last, recompute, block, x, places, patches, added=here)
        x = x.unflatten(0, (B, M))
        states = v.ln_post(x[:, :, : 1 + self.spec.states]) if self.spec.states else None
        if values is not None:
            values = v.ln_post(values.unflatten(0, (B, M)))
        if not (self.patches and unit):
            return ImageFeatures(self._project(x[:, :, 0], unit), None, states, values, untouched)
        x = self._project(x)
        return ImageFeatures(x[:, :, 0], x[:, :, 1 + n :], states, values, untouched)

    @torch.no_grad()
    def _from(self, i: int, x):
        """Return features (B, 1, D) of block i's input (B, 1 + P, W), without additions."""
        *inner, last = list(self.visual.transformer.resblocks)[i:]
        for block in inner:
            x = self._block(block, x)
        return self._project(self._last(last, x, 1, None)[0])

    @staticmethod
    def _block(block, x, added=NOTHING):
        y = block.ln_1(x)
        out = blocks.attend(block, *blocks.project_qkv(block, y, added))
        return blocks.finish(block, x, out, y, added)

    def _last(self, block, x, places: int, patches: slice | None, added=NOTHING):
        """Return the last block's output where it is read: (B*M, places, W), and values or None."""
        if places == x.shape[1] and patches is None:
            return self._block(block, x, added), None
        y = block.ln_1(x)
        key, value = blocks.project_kv(block, y, added)
        # contiguous: otherwise the bits of a matrix product may depend on the memory layout
        first, y_first = (t[:, :places].contiguous() for t in (x, y))
        out = blocks.attend(block, blocks.project_q(block, y_first, added), key, value)
        read = blocks.finish(block, first, out, y_first, added)
        if patches is None:
            return read, None
        own, v, y_own = (t[:, patches].contiguous() for t in (x, value, y))
        return read, blocks.finish(block, own, v, y_own, added)

    def _project(self, x, unit: bool = True):
        """Project states to features, without autocast, which would round to half precision."""
        with no_autocast(x.device.type):
            x = self.visual.ln_post(x) @ self.visual.proj
            return F.normalize(x, dim=-1) if unit else x

    def _resnet(self, images, unit: bool) -> ImageFeatures:
        """Return a ResNet's features, global and local: the attention pool's at each position."""
        if not ((self.patches or self.spec.values) and unit):
            x = self.visual(images)[:, None]
            return ImageFeatures(F.normalize(x, dim=-1) if unit else x, None)
        pool = self.visual.attnpool
        grid = {}

        def keep(module, inputs):
            grid["x"] = inputs[0]

        handle = pool.register_forward_pre_hook(keep)
        try:
            self.visual(images)
        finally:
            handle.remove()
        x = grid["x"].flatten(2).transpose(1, 2)  # (B, P, C)
        values = pool.c_proj(pool.v_proj(x))[:, None] if self.spec.values else None
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        x = x + pool.positional_embedding.to(x.dtype)
        q, k, v = (
            layer(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = F.normalize(pool.c_proj(x), dim=-1)[:, None]  # one view, no prompts
        return ImageFeatures(x[:, :, 0], x[:, :, 1:] if self.patches else None, None, values)
