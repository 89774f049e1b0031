"""Prompts: the learned contexts of both encoders, as modules that methods are made of.

A context is b learned tokens in front of a block; docs/methods.md, section 2, has the couplings.
Every module returns `Contexts` when it is called. Parameters have the names of public checkpoints
(docs/methods.md, section 7); `public_name` maps those that public code hides in the encoders.

Letters: M visual and N textual prompts, K classes, b tokens of a context, J blocks from the first
on that get contexts, W and V the widths of the text and the image encoder.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn

from .backbones import family_of
from .backbones.openai_clip import model as openai_model
from .encoders.sentences import SLOT, around_name, encode_after
from .encoders.sides import need_open
from .errors import from_1, need

STD = 0.02  # of every random context


class Contexts(NamedTuple):
    """The contexts that the encoders get: a list over the blocks i < J for each, or None.

    text: (N, b, W), (N, K, b, W) if class-specific, or (B, b, W) with one for each image; vision:
    (M, b, V); inserted: (K, b, W), tokens of each class that enter the text encoder at its
    `insert_block`.

    Examples:
        >>> Contexts(text=[torch.zeros(1, 4, 128)]).vision is None
        True
    """

    text: list[torch.Tensor] | None = None
    vision: list[torch.Tensor] | None = None
    inserted: torch.Tensor | None = None


class Size(NamedTuple):
    """The size of an encoder's contexts: b tokens, J blocks, and the keys that set them."""

    b: int
    J: int
    keys: tuple[str, str] = ("N_CTX", "DEPTH")


def size_of(b: str, J: str) -> Any:
    """Return a property of a method: the `Size` that two keys of its settings give."""

    def size(self: Any) -> Size:
        return Size(getattr(self.settings, b), getattr(self.settings, J), (b, J))

    return property(size)


def normal(*shape: int) -> nn.Parameter:
    """Return a random context, N(0, 0.02^2)."""
    return nn.Parameter(torch.randn(shape) * STD)


def initial_contexts(
    templates: Sequence[str],
    count: int,
    length: int,
    embedding: torch.Tensor,
    encode: Callable[[str], list[int]],
    before: str = "",
) -> torch.Tensor:
    """Return initial values of `count` contexts of `length` tokens (docs/methods.md, section 5).

    Words start from their embeddings; `X` and contexts without a template start at random. A
    template that repeats an earlier one gets noise added: prompts that start equal stay equal.

    Args:
        templates: the words of the first prompts; there may be fewer than `count`.
        length: number of tokens of each.
        embedding: (vocabulary, W), CLIP's token embedding.
        encode: its tokenizer's function from words to token ids.
        before: words in front of the contexts, such as a class name.

    Returns:
        (count, length, W).
    """
    out = torch.randn(count, length, embedding.shape[1]) * STD
    for i, template in enumerate(templates[:count]):
        tokens, start = list[tuple[int, bool]](), before
        for is_slot, words in groupby(around_name(template)[0].split(), SLOT.__eq__):
            some = " ".join(words)
            tokens += [(t, is_slot) for t in encode_after(encode, start, some)]
            start = f"{start} {some}".lstrip()
        repeated = template in templates[:i]
        for j, (token, is_slot) in enumerate(tokens[:length]):
            if not is_slot:
                out[i, j] = embedding[token] + (out[i, j] if repeated else 0)
    return out


def word_embeddings(clip_model: Any, words: str, before: str = "") -> torch.Tensor:
    """Return the embeddings (n, W), float32, of the n tokens of some words, to start contexts from.

    Args:
        clip_model: a CLIP from `load_clip`; W is the width of its text encoder.
        words: without SOS and EOS.
        before: what precedes the words in the sentence, such as `X`.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> word_embeddings(load_clip("emoji"), "a photo of a").shape
        torch.Size([4, 128])
    """
    need_open(clip_model, "text", "starts contexts from words")
    ids = encode_after(family_of(clip_model).tokenizer.encode, before, words)
    embeddings: torch.Tensor = clip_model.token_embedding.weight.detach()[ids].float()
    return embeddings


class Textual(nn.Module):
    """N textual contexts, which start from the words of their templates; deeper ones at random.

    Args:
        clip_model: a CLIP from `load_clip`.
        templates: of the N prompts.
        length: b.
        depth: J.
        single: True to keep the only context as (b, W), as public code of one prompt does.
        count: number of contexts, if there are more than templates.
        position: of the class name, as in `write_sentences`.
    """

    deeper = "deep_text"  # name of the contexts of later blocks

    def __init__(
        self,
        clip_model: Any,
        templates: Sequence[str],
        length: int,
        depth: int = 1,
        single: bool = False,
        count: int = 0,
        position: str = "end",
    ):
        super().__init__()
        self.before = SLOT if position == "front" else ""
        start = self.start(clip_model, templates, count or len(templates), length)
        self.ctx = nn.Parameter(start[0] if single else start)
        self.add_module(
            self.deeper, nn.ParameterList(normal(*self.ctx.shape) for _ in range(depth - 1))
        )

    def start(
        self, clip_model: Any, templates: Sequence[str], count: int, length: int
    ) -> torch.Tensor:
        """Return the initial contexts of the first block, (count, length, W)."""
        embedding = clip_model.token_embedding.weight.detach()
        encode = family_of(clip_model).tokenizer.encode
        return initial_contexts(templates, count, length, embedding, encode, self.before)

    def forward(self) -> Contexts:
        """Return the contexts of the text encoder."""
        return Contexts(self.all())

    def all(self) -> list[torch.Tensor]:
        """Return the contexts (N, b, W) of each block i < J."""
        return [c.view(-1, *c.shape[-2:]) for c in (self.ctx, *getattr(self, self.deeper))]


class ClassSpecific(nn.Module):
    """A context for each class (CoOp's CSC), at random and in the first block only."""

    def __init__(self, clip_model: Any, num_classes: int, length: int):
        super().__init__()
        self.ctx = normal(num_classes, length, clip_model.token_embedding.weight.shape[1])

    def forward(self) -> Contexts:
        """Return the contexts of the text encoder."""
        return Contexts([self.ctx[None]])


class Visual(nn.Module):
    """M visual contexts, at random; `single` as in `Textual`."""

    def __init__(self, clip_model: Any, M: int, length: int, depth: int, single: bool = False):
        super().__init__()
        shape_of_one = (length, visual_width(clip_model))
        shape = shape_of_one if single else (M, *shape_of_one)
        self.visual = nn.ParameterList(normal(*shape) for _ in range(depth))

    def forward(self) -> Contexts:
        """Return the contexts of the image encoder."""
        return Contexts(vision=[c.view(-1, *c.shape[-2:]) for c in self.visual])


class Independent(Textual):
    """Textual and visual contexts with separate parameters, lengths and depths (IVLP)."""

    def __init__(self, text: Textual, vision: Visual):
        nn.Module.__init__(self)
        self.ctx, self.deep_text, self.visual = text.ctx, text.deep_text, vision.visual

    def forward(self) -> Contexts:
        """Return the contexts of both encoders."""
        return Contexts(self.all(), [c.view(-1, *c.shape[-2:]) for c in self.visual])


class Coupled(Textual):
    """max(M, N) contexts, from which those of both sides are made: `proj` maps W to V.

    The text takes the first N, the image the first M.
    """

    deeper = "compound_prompts_text"
    compound_prompts_text: nn.ParameterList

    def __init__(
        self,
        clip_model: Any,
        templates: Sequence[str],
        length: int,
        depth: int,
        M: int = 1,
        single: bool = False,
    ):
        N = len(templates)
        super().__init__(clip_model, templates, length, depth, single, max(M, N))
        self.M, self.N = M, N
        self.proj = nn.Linear(self.ctx.shape[-1], visual_width(clip_model))


class Projected(Coupled):
    """Textual contexts, and visual ones as a linear map of them for each block (MaPLe)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        W, V, deeper = self.proj.in_features, self.proj.out_features, self.compound_prompts_text
        self.compound_prompt_projections = nn.ModuleList(nn.Linear(W, V) for _ in deeper)

    def forward(self) -> Contexts:
        """Return the contexts of both encoders."""
        base, maps = self.all(), (self.proj, *self.compound_prompt_projections)
        return Contexts(
            [c[: self.N] for c in base],
            [linear(c[: self.M]) for linear, c in zip(maps, base, strict=True)],
        )


class Unified(Coupled):
    """Contexts of 2b tokens, mixed by a transformer layer and split over both sides (UPT).

    U'' = FFN(LN(U')) + U', U' = SA(LN(U)) + U. All blocks share the layer, which starts as the
    identity.
    """

    def __init__(self, clip_model: Any, *args: Any, **kwargs: Any):
        super().__init__(clip_model, *args, **kwargs)
        self.b = self.ctx.shape[-2] // 2
        heads = clip_model.transformer.resblocks[0].attn.num_heads
        self.mixer = openai_model.ResidualAttentionBlock(self.ctx.shape[-1], heads)
        for last in (self.mixer.attn.out_proj, self.mixer.mlp.c_proj):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def start(
        self, clip_model: Any, templates: Sequence[str], count: int, length: int
    ) -> torch.Tensor:
        """Return the initial contexts (count, 2b, W): words, then visual tokens at random."""
        text = super().start(clip_model, templates, count, length)
        return torch.cat([text, torch.randn_like(text) * STD], dim=1)

    def forward(self) -> Contexts:
        """Return the contexts of both encoders."""
        mixed = [self.mixer(c.transpose(0, 1)).transpose(0, 1) for c in self.all()]
        return Contexts(
            [c[: self.N, : self.b] for c in mixed],
            [self.proj(c[: self.M, self.b :]) for c in mixed],
        )


def visual_width(clip_model: Any) -> int:
    """Return V, the width of the image encoder; raises UserError if it has no place for prompts."""
    need_open(clip_model, "image", "has visual prompts")
    need(
        hasattr(clip_model.visual, "transformer"),
        "The backbone is a ResNet, which cannot take the visual prompts of this method: choose a "
        "ViT, or a method without visual prompts",
    )
    width: int = clip_model.visual.conv1.weight.shape[0]
    return width


def check_size(clip_model: Any, side: str, size: Size) -> None:
    """Refuse contexts that an encoder of a CLIP cannot take."""
    for key, value in zip(size.keys, (size.b, size.J), strict=True):
        from_1(key, value)
    need_open(clip_model, side, f"has {'visual' if side == 'image' else 'textual'} prompts")
    if side == "image":
        visual_width(clip_model)
    encoder = clip_model if side == "text" else clip_model.visual
    depth = len(encoder.transformer.resblocks)
    need(
        depth >= size.J,
        f"{size.keys[1]} is {size.J} but the {side} encoder of this backbone has {depth} blocks: "
        "lower it",
    )


def public_name(name: str) -> str:
    """Return the public name of a prompt's parameter that public code hides in an encoder.

    Deep textual contexts and visual ones stand there in the encoders' blocks; other names stay.
    """
    block = "transformer.resblocks.{}.VPT_shallow"
    learner, _, rest = name.partition(".")
    kind, _, i = rest.partition(".")
    if learner != "prompt_learner" or not i.isdecimal():
        return name
    if kind == "deep_text":
        return "text_encoder." + block.format(int(i) + 1)
    if kind == "visual":
        return "image_encoder." + (block.format(i) if int(i) else "VPT")
    return name
