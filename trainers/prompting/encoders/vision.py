"""The prompted image encoder."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from ..running.memory import Footprint
from ..spec import PromptSpec
from ..transport.precision import no_autocast
from . import blocks


class ImageFeatures(NamedTuple):
    """Image side of the scores; all features are L2-normalised.

    z: (B, M, D) prompt-level features, M = 1 without prompts; r: (B, M, P + b, D) token-level
    features (all states but CLS), or None.
    """

    z: torch.Tensor
    r: torch.Tensor | None


class ImageEncoder(nn.Module):
    """CLIP's vision transformer under M prompts: an image passes once per prompt.

    Args:
        visual: the `visual` module of a CLIP (see `backbones`); its modules are used, not copied.
        spec: the method.
        patches: whether the token-level features are wanted.

    Raises:
        UserError: the backbone is a ResNet although the method has visual prompts, or the depth
            exceeds the encoder's.
    """

    def __init__(self, visual, spec: PromptSpec, patches: bool):
        super().__init__()
        self.visual = visual
        self.spec = spec
        self.patches = patches
        self.recompute = False  # the blocks' activations in the backward pass
        self.is_vit = hasattr(visual, "transformer")
        if not self.is_vit and spec.M:
            raise UserError(
                f"M is {spec.M} but the backbone is a ResNet, which has no place for visual "
                "prompts: choose a ViT, or M = 0"
            )
        if self.is_vit and spec.M:
            layers = len(visual.transformer.resblocks)
            if spec.vision_depth > layers:
                raise UserError(
                    f"The visual prompt depth is {spec.vision_depth} but the image encoder of this "
                    f"backbone has {layers} blocks: lower DEPTH"
                )

    @property
    def width(self) -> int:
        """Width of the tokens that prompts are appended to."""
        return self.visual.conv1.weight.shape[0]

    def check(self, images: torch.Tensor) -> None:
        """Refuse images that mean nothing here.

        Raises:
            ValueError: images that this encoder does not read. Pixels that are nan or infinite are
                found on the CPU alone: for any other device the host would have to wait.
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
                "images has pixels that are nan or infinite, of which there are no logits: check "
                "how they were read and normalised"
            )

    def forward(
        self, images, contexts: list[torch.Tensor] | None = None, unit: bool = True
    ) -> ImageFeatures:
        """Encode images under every visual prompt.

        Args:
            images: (B, 3, H, W), normalised.
            contexts: per depth i < J the visual prompts (M, b, width); None when M = 0.
            unit: whether features are normalised; else there are none of tokens.

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
        x = v.ln_pre(x)  # LayerNorm is per token: image tokens need it once for all prompts
        B, M = x.shape[0], len(contexts[0]) if contexts else 1
        x = x[:, None].expand(B, M, *x.shape[1:])
        if contexts:
            ctx = v.ln_pre(contexts[0].to(x.dtype)).expand(B, *contexts[0].shape)
            x = torch.cat([x, ctx], dim=2)
        x = x.flatten(0, 1)  # (B*M, 1+P+b, W)
        layers = v.transformer.resblocks
        for i, block in enumerate(layers):
            if contexts and 1 <= i < len(contexts):  # deep prompts replace the last b states
                ctx = contexts[i].to(x.dtype)
                ctx = ctx.expand(B, *ctx.shape).flatten(0, 1)
                x = torch.cat([x[:, : -ctx.shape[1]], ctx], dim=1)
            step = self._block if self.patches or i + 1 < len(layers) else self._read_cls
            x = blocks.run(step, self.recompute and x.requires_grad, block, x)
        x = x.unflatten(0, (B, M))
        if not (self.patches and unit):
            return ImageFeatures(self._project(x[:, :, 0], unit), None)
        x = self._project(x)
        return ImageFeatures(x[:, :, 0], x[:, :, 1:])

    def footprint(self, batch: int, itemsize: float) -> Footprint:
        """What a training step on `batch` images keeps for the backward pass."""
        if not self.spec.M:  # nothing here has a gradient
            return Footprint()
        layers = len(self.visual.transformer.resblocks)
        length = len(self.visual.positional_embedding) + self.spec.vision_length
        state = batch * self.spec.M * length * self.width * itemsize
        block = blocks.STATES * state
        return Footprint(stored=layers * block, inputs=layers * state, block=block)

    @staticmethod
    def _block(block, x):
        return blocks.finish(block, x, blocks.attend(block, *blocks.project_qkv(block, x)))

    @staticmethod
    def _read_cls(block, x):
        """The last block at CLS alone: (B*M, 1, W)."""
        cls = x[:, :1]
        out = blocks.attend(block, blocks.project_q(block, cls), *blocks.project_kv(block, x))
        return blocks.finish(block, cls, out)

    def _project(self, x, unit: bool = True):
        """States to features, which autocast would round to half precision."""
        with no_autocast(x.device.type):
            x = self.visual.ln_post(x) @ self.visual.proj
            return F.normalize(x, dim=-1) if unit else x

    def _resnet(self, images, unit: bool) -> ImageFeatures:
        """Global and local features of a ResNet: the attention pool's output at each position."""
        if not (self.patches and unit):
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
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        x = x + pool.positional_embedding.to(x.dtype)
        q, k, v = (
            layer(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = F.normalize(pool.c_proj(x), dim=-1)[:, None]  # one view, no prompts
        return ImageFeatures(x[:, :, 0], x[:, :, 1:])
