"""The prompt learner: the trained contexts of both sides, and the networks that couple them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ..backbones import family_of
from ..backbones.openai_clip import model as openai_model
from ..errors import UserError
from ..spec import SLOT, PromptSpec

STD = 0.02  # of every random context


class Contexts(NamedTuple):
    """The contexts that the encoders get, a list over the depths i < J for each side, or None.

    text: (N, b, W), or (K, b, W) if class-specific; vision: (M, b, width); inserted: (K, b, W),
    tokens of each class that enter the text encoder at `spec.insert_block`.

    Examples:
        >>> Contexts(text=[torch.zeros(1, 4, 128)], vision=None).inserted is None
        True
    """

    text: list[torch.Tensor] | None
    vision: list[torch.Tensor] | None
    inserted: torch.Tensor | None = None


def normal(*shape: int) -> nn.Parameter:
    """Return a random context, N(0, 0.02^2)."""
    return nn.Parameter(torch.randn(shape) * STD)


def initial_contexts(
    templates: Sequence[str],
    count: int,
    length: int,
    embedding: torch.Tensor,
    encode: Callable[[str], list[int]],
) -> torch.Tensor:
    """Return initial values of `count` contexts of `length` tokens (docs/methods.md, section 5).

    Words start from their embeddings; `X` and contexts without a template start at random. A
    template that repeats an earlier one gets noise added: prompts that start equal stay equal.

    Args:
        templates: the words of the first prompts; there may be fewer than `count`.
        count: number of prompts.
        length: number of tokens of each.
        embedding: (vocabulary, W), CLIP's token embedding.
        encode: its tokenizer's function from a word to token ids.

    Returns:
        (count, length, W).
    """
    out = torch.randn(count, length, embedding.shape[1]) * STD
    for i, template in enumerate(templates[:count]):
        tokens = [(t, word == SLOT) for word in template.split() for t in encode(word)]
        repeated = template in templates[:i]
        for j, (token, is_slot) in enumerate(tokens[:length]):
            if not is_slot:
                out[i, j] = embedding[token] + (out[i, j] if repeated else 0)
    return out


def word_embeddings(clip_model: Any, words: str) -> torch.Tensor:
    """Return the embeddings (n, W), float32, of the n tokens of some words, to start contexts from.

    Args:
        clip_model: a CLIP from `load_clip`; W is the width of its text encoder.
        words: without SOS and EOS.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> word_embeddings(load_clip("emoji"), "a photo of a").shape
        torch.Size([4, 128])
    """
    ids = family_of(clip_model).tokenizer.encode(words)
    embeddings: torch.Tensor = clip_model.token_embedding.weight.detach()[ids].float()
    return embeddings


class MetaNet(nn.Module):
    """CoCoOp's network from the image feature to a shift of the context."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, dim // 16)
        self.linear2 = nn.Linear(dim // 16, width)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the shift: (B, D) -> (B, width)."""
        shift: torch.Tensor = self.linear2(self.linear1(z).relu())
        return shift


class PromptLearner(nn.Module):
    """The trained contexts of a method, with parameters named as in public checkpoints.

    Only the token embedding and the dimensions of the CLIP are read, to initialise the contexts.
    """

    def __init__(self, clip_model: Any, spec: PromptSpec, num_classes: int):
        super().__init__()
        self.spec = spec
        embedding = clip_model.token_embedding.weight.detach()
        width, b, J = embedding.shape[1], spec.text_length, spec.text_depth
        visual_width = clip_model.visual.conv1.weight.shape[0]
        derived = spec.coupling in ("project", "unified")

        if spec.own_contexts:  # the parts make them
            pass
        elif spec.class_specific:  # prompts in the first block only
            self.ctx, self.deep_text = normal(num_classes, b, width), nn.ParameterList()
        elif spec.N:
            count = spec.num_contexts
            encode = family_of(clip_model).tokenizer.encode
            ctx = initial_contexts(spec.templates, count, b, embedding, encode)
            if spec.coupling == "unified":  # b textual and b visual tokens of the text width
                ctx = torch.cat([ctx, torch.randn_like(ctx) * STD], dim=1)
            shape = ctx.shape if count > 1 or spec.score != "cosine" else ctx.shape[1:]
            self.ctx = nn.Parameter(ctx.reshape(shape))
            deep = nn.ParameterList(normal(*shape) for _ in range(J - 1))
            if derived:
                self.compound_prompts_text = deep
            else:
                self.deep_text = deep
        if spec.coupling == "project":
            self.proj = nn.Linear(width, visual_width)
            self.compound_prompt_projections = nn.ModuleList(
                nn.Linear(width, visual_width) for _ in range(J - 1)
            )
        elif spec.coupling == "unified":
            self.proj = nn.Linear(width, visual_width)
            heads = clip_model.transformer.resblocks[0].attn.num_heads
            self.mixer = openai_model.ResidualAttentionBlock(width, heads)
            # 0, so that the mixer starts as the identity
            for last in (self.mixer.attn.out_proj, self.mixer.mlp.c_proj):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        elif spec.M and not spec.own_contexts:
            several = spec.M > 1 or spec.score != "cosine"
            one = (spec.vision_length, visual_width)
            shapes = [(spec.M, *one) if several else one] * spec.vision_depth
            self.visual = nn.ParameterList(normal(*shape) for shape in shapes)
        if spec.image_conditional:
            self.meta_net = MetaNet(clip_model.text_projection.shape[1], width)

    def public_names(self) -> dict[str, str]:
        """Return own parameter name -> name in a public checkpoint (docs/methods.md, section 7)."""
        names = {}
        for own, _ in self.named_parameters():
            kind, _, rest = own.partition(".")
            block = "transformer.resblocks.{}.VPT_shallow"
            if kind == "deep_text":
                names[own] = "text_encoder." + block.format(int(rest) + 1)
            elif kind == "visual":
                names[own] = "image_encoder." + (block.format(rest) if int(rest) else "VPT")
            else:
                names[own] = "prompt_learner." + own
        return names

    def forward(self, z: torch.Tensor | None = None) -> Contexts:
        """Return the contexts of all prompts.

        Args:
            z: (B, D) normalised image features, only for image-conditional contexts: there is then
                one text context per image, (B, b, W).
        """
        spec = self.spec
        if spec.own_contexts:
            return Contexts(None, None)
        if spec.image_conditional:
            return Contexts([self.ctx + self.meta_net(z)[:, None]], None)
        if spec.coupling == "unified":
            return self._unified()
        text = vision = None
        if spec.N:
            deep = self.compound_prompts_text if spec.coupling == "project" else self.deep_text
            base = [as_batch(c) for c in (self.ctx, *deep)]
            text = base if spec.class_specific else [c[: spec.N] for c in base]
            if spec.coupling == "project":
                layers = (self.proj, *self.compound_prompt_projections)
                vision = [layer(c[: spec.M]) for layer, c in zip(layers, base, strict=True)]
        if spec.M and vision is None:
            vision = [as_batch(c) for c in self.visual]
        return Contexts(text, vision)

    def _unified(self) -> Contexts:
        """Return UPT's contexts: U'' = FFN(LN(U')) + U', U' = SA(LN(U)) + U.

        All depths share this layer.
        """
        spec, b = self.spec, self.spec.text_length
        text, vision = [], []
        for unified in (self.ctx, *self.compound_prompts_text):
            mixed = self.mixer(as_batch(unified).transpose(0, 1)).transpose(0, 1)
            text.append(mixed[: spec.N, :b])
            vision.append(self.proj(mixed[: spec.M, b:]))
        return Contexts(text, vision)


def as_batch(context: torch.Tensor) -> torch.Tensor:
    """Reshape (b, W) to (1, b, W), and return (N, b, W) unchanged."""
    return context if context.dim() == 3 else context[None]


def check_contexts(
    contexts: Contexts,
    spec: PromptSpec,
    num_classes: int,
    towers: Sequence[Any],
    name: str,
) -> None:
    """Refuse contexts from a method's `Parts` that do not fit the encoders.

    Args:
        contexts: as returned by `Parts.contexts`.
        spec: the method.
        num_classes: K.
        towers: the text encoder and the image encoder, each with a `transformer` if not a ResNet.
        name: of the method.

    Raises:
        UserError: says what the contexts should be.
    """
    b = spec.text_length

    def need(condition: bool, sentence: str) -> None:
        if not condition:
            raise UserError(f"`contexts` of the Parts of {name} returns {sentence}")

    sides = zip(("text", "image"), contexts[:2], (spec.N, spec.M), towers, strict=True)
    for side, found, count, tower in sides:
        shapes = [tuple(context.shape) for context in found or ()]
        need(bool(found) or not count, f"none for the {side} encoder, which has prompts")
        if side == "text" and found:
            need(count > 0, "some for the text encoder, which has no prompts: N is 0")
            need(shapes[0][1] == b, f"{shapes[0][1]} tokens for the text encoder, but N_CTX is {b}")
        need(
            all(s[::2] == shapes[0][::2] and s[1] <= shapes[0][1] for s in shapes),
            f"shapes {shapes} for the {side} encoder, but a later depth must have the shape of the "
            "first, with as many tokens or fewer",
        )
        blocks = len(tower.transformer.resblocks) if hasattr(tower, "transformer") else 0
        need(
            len(shapes) <= blocks,
            f"{len(shapes)} depths for the {side} encoder, which has {blocks} blocks",
        )
    if contexts.inserted is not None:
        shape = tuple(contexts.inserted.shape)
        need(
            spec.insert_block > 0 and shape[:2] == (num_classes, b),
            f"`inserted` of the shape {shape}, which needs `insert_block` in the PromptSpec, and "
            f"{b} tokens for each of {num_classes} classes",
        )
