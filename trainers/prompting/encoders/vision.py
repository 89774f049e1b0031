"""The prompted image encoder (docs/methods.md, section 1).

It is long because methods read many outputs of one pass: features, patches, states, values.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.closed import Closed
from ..backbones.eva import turn
from ..errors import ClosedSide, need
from ..full_precision import no_autocast
from . import blocks
from .added import NONE, NOTHING, Added, Additions, let_in, summand


class ImageFeatures(NamedTuple):
    """The image features that scores read.

    z: (B, M, D) prompt-level features, M = 1 without prompts; r: (B, M, P + b, D) token-level
    features (of all positions but CLS and tokens that entered), or None. Both are L2-normalised.

    Some methods ask for outputs of the last block after `ln_post`, before the projection to D:
    states: (B, M, 1 + n, W) of the first 1 + n positions (of a ResNet 1); values: (B, M, P, W) of
    the patches, each attending only to itself (a ResNet has D for W), or by V-V attention.

    inner: (B, M, L, W) the outputs of blocks by number, at all positions: CLS, tokens that entered,
    patches, contexts.

    untouched: (B, 1, D) z without additions, while gradients are on. raw: (B, M, D) z before it is
    normalised. These and z are float32, the others as the encoder computes (half with PREC fp16).
    """

    z: torch.Tensor
    r: torch.Tensor | None
    states: torch.Tensor | None = None
    values: torch.Tensor | None = None
    untouched: torch.Tensor | None = None
    raw: torch.Tensor | None = None
    inner: Mapping[int, torch.Tensor] = {}


class ClassToken:
    """How OpenAI's image encoder ends: the class token passes `ln_post` and the projection.

    An encoder that ends otherwise has a `shape` with the same attributes and functions.

    Attributes: Class attributes
        name: of this end, for tables.
        first: number of positions before the patches.
        reads: number of leading positions that the feature is read from; 0 for all.
    """

    name = "class token"
    first = 1
    reads = 1

    def features(
        self, visual: Any, post: nn.Module, x: Tensor, tokens: bool, n: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return features of the last states.

        Args:
            post: its `ln_post`, or what a method puts in its place.
            x: states (..., L, W); of the leading `reads` positions, if that is not 0.
            tokens: True to return the features of positions, too; x then has all of them.
            n: number of tokens that have entered before the patches.

        Returns:
            The image's feature (..., D), the same normalised, and the normalised features
            (..., P + b, D) of patches and contexts, or None.
        """
        if not tokens:
            raw = post(x[..., 0, :]) @ visual.proj
            return raw, F.normalize(raw, dim=-1), None
        raw = post(x) @ visual.proj
        normal = F.normalize(raw, dim=-1)
        return raw[..., 0, :].clone(), normal[..., 0, :], normal[..., 1 + n :, :]

    def pooled(self, visual: Any, post: nn.Module, x: Tensor) -> Tensor:
        """Return the feature (..., 1, D) of the states (..., n, W) that it is read from."""
        feature: Tensor = post(x) @ visual.proj
        return feature

    def alone(self, visual: Any, states: Tensor) -> Tensor:
        """Return features (..., n, D) of states after `post`, each read by itself."""
        proj = getattr(visual, "proj", None)  # a ResNet's are already projected
        return states if proj is None else states @ proj.float()


CLASS_TOKEN = ClassToken()


def project_values(
    visual: Any, values: torch.Tensor, first: nn.Module | None = None
) -> torch.Tensor:
    """Project `ImageFeatures.values` (B, M, P, W) to normalised features (B, M, P, D), float32.

    Those of a ResNet are projected already. `first` is a module on (..., W) before the projection.
    """
    with no_autocast(values.device.type):
        x = values.float() if first is None else first(values.float())
        return F.normalize(getattr(visual, "shape", CLASS_TOKEN).alone(visual, x), dim=-1)


class ImageEncoder(nn.Module):
    """CLIP's image encoder under M prompts: an image passes through it once per prompt.

    Args:
        visual: the `visual` module of a CLIP (see `backbones`); its modules are used, not copied.
        patches: True to compute the token-level features r.
        states: n, to return the last states of the first 1 + n positions; of a ResNet only 0, what
            its attention pool projects. None for no states.
        values: True to return the patches by the value path of the last block.
        pool: of a ResNet: `placed` for values with the positions of its attention pool, after that
            of the pooled mean; `unplaced` for a feature without positions.
        vv: `clean` or `released` to return in their place the patches of a path next to all blocks,
            to which each adds OutProj(softmax(V V' / sqrt d) V), V its values; it has no MLP
            (CLIP Surgery, arXiv:2304.05653). `released` adds the attention of the first block, too,
            as the public code of SOT-GLP does.
        untouched: True to return z without additions, while gradients are on; not with contexts.
        inner: the blocks, from 0 and without the last one, whose outputs are returned.

    Raises:
        UserError: `vv`, `inner` or more states are asked of a ResNet, or more than its feature of
            a closed side.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> encoder = ImageEncoder(load_clip("emoji").visual, patches=True)
        >>> image = encoder(torch.zeros(3, 3, 64, 64))
        >>> image.z.shape, image.r.shape
        (torch.Size([3, 1, 128]), torch.Size([3, 1, 64, 128]))
    """

    __call__: Callable[..., ImageFeatures]

    def __init__(
        self,
        visual: Any,
        patches: bool = False,
        states: int | None = None,
        values: bool = False,
        pool: str = "",
        untouched: bool = False,
        vv: str = "",
        inner: Collection[int] = (),
    ):
        super().__init__()
        self.visual = visual
        self.patches, self.states, self.values, self.pool = patches, states, values, pool
        self.untouched, self.vv, self.inner = untouched, vv, inner
        self.recompute = False  # activations of the blocks, in the backward pass
        self.is_vit = hasattr(visual, "transformer")
        self.is_closed = isinstance(visual, Closed)
        if self.is_closed and self.more:
            raise ClosedSide("image", self.more)
        self.shape: ClassToken = getattr(visual, "shape", CLASS_TOKEN)
        need(
            self.shape.first == 1 or states is None,
            "The method reads the class token or tokens next to it, but in this backbone images "
            f"have {self.shape.first} tokens before their patches: choose another method or "
            "backbone",
        )
        need(
            self.is_vit or not (states or vv or inner),
            "The backbone has a ResNet for images but the method reads states of a transformer: "
            "choose a ViT",
        )

    @property
    def num_patches(self) -> int:
        """P, the number of patches of an image."""
        place = self.visual if self.is_vit else self.visual.attnpool
        return len(place.positional_embedding) - self.shape.first

    @property
    def more(self) -> str:
        """A predicate that names outputs which neither rows of features nor a closed side give."""
        if self.patches or self.values or self.vv:
            return "reads patches"
        if self.inner:
            return "reads states of inner blocks"
        return "reads states of the last block" if self.states is not None else ""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a BatchNorm would change the frozen encoder."""
        return super().train(False)

    def check(self, images: torch.Tensor) -> None:
        """Refuse images that this encoder cannot read.

        Raises:
            ValueError: the images have another shape.
        """
        size = self.visual.input_resolution
        # not `len(images)`, which would fix the number of images in an exported program
        if images.dim() != 4 or images.shape[1:] != (3, size, size) or images.shape[0] == 0:
            raise ValueError(
                f"images has shape {tuple(images.shape)} but must be (B, 3, {size}, {size}), B at "
                "least 1"
            )

    def forward(
        self,
        images: torch.Tensor,
        contexts: list[torch.Tensor] | None = None,
        added: Additions = NONE,
    ) -> ImageFeatures:
        """Encode images under every visual prompt.

        Args:
            images: (B, 3, H, W), normalised.
            contexts: the visual contexts (M, b, W) for each depth i < J; None without them. A later
                depth may have fewer tokens, which replace the last ones.
            added: a method's additions to the blocks.
        """
        v, shape = self.visual, self.shape
        if self.is_closed:
            if contexts or added:
                raise ClosedSide("image", "puts something into the image encoder")
            raw = v(images)[:, None]
            return ImageFeatures(F.normalize(raw, dim=-1).float(), None, raw=raw.float())
        images = images.to(v.conv1.weight.dtype)
        if not self.is_vit:
            return self._resnet(images)
        layers = v.transformer.resblocks
        x = v.conv1(images).to(images.dtype).flatten(2).transpose(1, 2)  # (B, P, W)
        if shape.first:
            cls = v.class_embedding.to(x.dtype).expand(x.shape[0], shape.first, -1)
            x = torch.cat([cls, x], dim=1)
        embedded = x + v.positional_embedding.to(x.dtype)
        pre = added.get(0, NOTHING).norms.get("pre") or v.ln_pre
        x = pre(embedded)  # LayerNorm is per token: once for the image tokens of all prompts
        start = shape.first
        B, P, M = x.shape[0], x.shape[1] - start, len(contexts[0]) if contexts else 1
        x = x[:, None].expand(B, M, *x.shape[1:])
        if contexts:
            ctx = pre(contexts[0].to(x.dtype)).expand(B, *contexts[0].shape)
            x = torch.cat([x, ctx], dim=2)
        x = x.flatten(0, 1)  # (B*M, 1+P+b, W)
        n, untouched, inner = 0, None, {}  # n: tokens that have entered after CLS
        path = x[:, start : start + P] if self.vv else None
        branch = min(added, default=len(layers) - 1) if torch.is_grad_enabled() else None
        for i, block in enumerate(layers):
            addition = added.get(i, NOTHING)
            if self.untouched and i == branch:
                untouched = self._from(i, v.ln_pre(embedded) if "pre" in addition.norms else x)
            if addition.before is not None:
                x = x + summand(addition.before, x)
            if contexts and 1 <= i < len(contexts):  # deep prompts replace the last b states
                ctx = contexts[i].to(x.dtype)
                ctx = ctx.expand(B, *ctx.shape).flatten(0, 1)
                x = torch.cat([x[:, : -ctx.shape[1]], ctx], dim=1)
            if addition.enter is not None:
                x, n = let_in(addition, x, n, start)
            recompute = self.recompute and (x.requires_grad or addition is not NOTHING)
            if path is not None:
                at, both = slice(start + n, start + n + P), i == 0 and self.vv == "released"
                inputs = block, x, start, at, both
                path = path + blocks.run(self._value_attention, recompute, *inputs, added=addition)
            if i + 1 < len(layers):
                x = blocks.run(self._block, recompute, block, x, start + n, added=addition)
                if addition.local is not None and path is not None:
                    path = path + summand(addition.local, x[:, at])
                if i in self.inner:
                    inner[i] = x.unflatten(0, (B, M))
        few = shape.reads and not self.patches and addition.local is None
        places = shape.reads + (self.states or 0) if few else x.shape[1]
        patches = slice(start + n, start + n + P) if self.values else None
        what = block, x, places, patches, start + n
        x, values = blocks.run(self._last, recompute, *what, added=addition)
        if addition.local is not None and path is not None:
            path = path + summand(addition.local, x[:, at])
        x = x.unflatten(0, (B, M))
        post, values = addition.norms.get("post") or v.ln_post, values if path is None else path
        states = None if self.states is None else post(x[:, :, : 1 + self.states])
        if values is not None:
            values = post(values.unflatten(0, (B, M)))
        with no_autocast(x.device.type):  # it would round
            raw, z, r = shape.features(v, post, x, self.patches, n)
        return ImageFeatures(z.float(), r, states, values, untouched, raw.float(), inner)

    @torch.no_grad()
    def _from(self, i: int, x: Tensor) -> Tensor:
        """Return features (B, 1, D) of block i's input (B, 1 + P, W), without additions."""
        *inner, last = list(self.visual.transformer.resblocks)[i:]
        for block in inner:
            x = self._block(block, x, self.shape.first)
        x = self._last(last, x, self.shape.reads or x.shape[1], None, self.shape.first)[0]
        with no_autocast(x.device.type):
            z = F.normalize(self.shape.pooled(self.visual, self.visual.ln_post, x), dim=-1)
        return z.float()

    @staticmethod
    def _block(block: Any, x: Tensor, first: int, added: Added = NOTHING) -> Tensor:
        y = blocks.norm(block, "ln_1", added)(x)
        query, key, value = blocks.project(block, y, added, "qkv")
        query, key = turn(block, query, first), turn(block, key, first)
        out = blocks.attend(block, query, key, value)
        return blocks.finish(block, x, out, y, added)

    @staticmethod
    def _value_attention(
        block: Any, x: Tensor, first: int, patches: slice, both: bool, added: Added = NOTHING
    ) -> Tensor:
        """Return a block's V-V attention at the patches; with `both`, plus its own attention.

        Tokens that entered between the first positions and the patches are not seen.
        """
        y = blocks.norm(block, "ln_1", added)(x)
        (v,) = blocks.project(block, y, added, "v")
        update = added.weights.get("o")
        seen = v if patches.start == first else torch.cat([v[:, :first], v[:, patches.start :]], 1)
        out = blocks.output(block, blocks.attend(block, v[:, patches], seen, seen), update)
        if both:
            pair = blocks.project(block, y, added, "qk")
            query, key = (turn(block, x, patches.start) for x in pair)
            own = blocks.attend(block, query[:, patches], key, v)
            out = out + blocks.output(block, own, update)
        return out

    def _last(
        self,
        block: Any,
        x: Tensor,
        places: int,
        patches: slice | None,
        first: int,
        added: Added = NOTHING,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last block's output where it is read: (B*M, places, W), and values or None."""
        if places == x.shape[1] and patches is None:
            return self._block(block, x, first, added), None
        y = blocks.norm(block, "ln_1", added)(x)
        key, value = blocks.project(block, y, added, "kv")
        # contiguous: otherwise the bits of a matrix product may depend on the memory layout
        x_read, y_read = (t[:, :places].contiguous() for t in (x, y))
        query = turn(block, blocks.project(block, y_read, added, "q")[0], first)
        out = blocks.attend(block, query, turn(block, key, first), value)
        read = blocks.finish(block, x_read, out, y_read, added)
        if patches is None:
            return read, None
        own, v, y_own = (t[:, patches].contiguous() for t in (x, value, y))
        return read, blocks.finish(block, own, v, y_own, added)

    def _resnet(self, images: Tensor) -> ImageFeatures:
        """Return a ResNet's features, global and local: the attention pool's at each position."""
        if not self.more:
            raw = self.visual(images)[:, None]
            return ImageFeatures(F.normalize(raw, dim=-1).float(), None, raw=raw.float())
        pool = self.visual.attnpool
        grid = {}

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            grid["x"] = inputs[0]

        handle = pool.register_forward_pre_hook(keep)
        try:
            self.visual(images)
        finally:
            handle.remove()
        x = grid["x"].flatten(2).transpose(1, 2)  # (B, P, C)
        alone = x  # read by the value path
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        if self.pool != "unplaced":
            x = x + pool.positional_embedding.to(x.dtype)
        alone = x if self.pool == "placed" else alone
        values = pool.c_proj(pool.v_proj(alone))[:, None] if self.values else None
        q, k, v = (
            layer(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        states = None if self.states is None else x[:, None, :1]
        raw = pool.c_proj(x)[:, None]  # one view, no prompts
        x = F.normalize(raw, dim=-1)
        r = x[:, :, 1:] if self.patches else None
        z, raw = x[:, :, 0].float(), raw[:, :, 0].clone().float()
        return ImageFeatures(z, r, states, values, raw=raw)
