"""Backbones of the true size with random weights, and the arithmetic that a step cannot avoid."""

from functools import cache
from typing import NamedTuple

import torch

from trainers.prompting import Method, build_clip
from trainers.prompting.encoders.sentences import shared_length

ARGUMENTS = (
    "embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size",
    "context_length", "vocab_size", "transformer_width", "transformer_heads", "transformer_layers",
)  # fmt: skip
GEOMETRY = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
WORDS = [
    "river", "forest", "highway", "pasture", "building", "church", "bridge", "tower", "garden",
    "lake", "desert", "street",
]  # fmt: skip


def untrained_clip(geometry: tuple):
    """A CLIP of that geometry, whose numbers stand in the order of ARGUMENTS."""
    return build_clip(dict(zip(ARGUMENTS, geometry, strict=True)))


@cache
def weightless_clip(name: str):
    """An untrained CLIP by its name in GEOMETRY, whose weights take no memory."""
    with torch.device("meta"):
        return untrained_clip(GEOMETRY[name])


def class_names(count: int) -> list[str]:
    """Names of one to three words, distinct, and the same for the same count."""
    names = []
    for i in range(count):
        words = [WORDS[i % 12], WORDS[i // 12 % 12], WORDS[i // 144 % 12]]
        names.append(" ".join(words[: 1 + i % 3]) if i < 12 else " ".join(words))
    return names


class Work(NamedTuple):
    """The work of one transformer block on all its sequences, counted in positions.

    q, kv: positions projected to queries, and to keys and values; out: those that pass the
    output projection and the MLP; products: pairs of a query and a key, once for each matrix
    product over them.
    """

    q: int
    kv: int
    out: int
    products: int

    def flops(self, width: int) -> int:
        """Operations, where states have a width."""
        return width**2 * (2 * self.q + 4 * self.kv + 18 * self.out) + 2 * width * self.products


# What a step of a method has beside the forward and backward pass of its prompted CLIP.
FROZEN_IMAGES = {"PromptSRC": 1, "CoPrompt": 1}  # passes of the untouched image encoder
BACKWARD_PASSES = {"ProGrad": 2}  # one for each loss whose gradient it compares


def necessary_flops(method: Method, batch: int) -> dict[str, int]:
    """Operations of a training step, forward and backward, that the mathematics needs.

    An image passes once per visual prompt, the words before the class name once per textual
    prompt and a class name once per prompt and class. In the first block, what has not met a
    prompt yet is the same for all of them. Only what is read later is computed: in the last block
    no more than the scores use, and not the states that the next block's prompts replace. The
    backward pass needs one product for a frozen layer (for its input alone) and none for what
    depends on no prompt; attention and similarity need two for one. Text without prompts needs
    nothing: its features are constant. Left out, because small: the prompt learner, the solver's
    iterations and all that is not a matrix product.

    Args:
        method: with a ViT, and contexts that stand before the class name.
        batch: images of a step.
    """
    model, name = method.model, type(method).__name__
    passes = BACKWARD_PASSES.get(name, 1)
    frozen = FROZEN_IMAGES.get(name, 0)
    return {
        "image": _image(model, model.spec, batch, passes),
        "text": _text(model, batch, passes),
        "similarity": _similarity(model, batch, passes),
        "frozen": frozen * _image(model, model.spec.with_(M=0, beta=0), batch, 0),
    }


def evaluation_flops(method: Method) -> tuple[int, int]:
    """Operations of an evaluation, as `necessary_flops`: once for the text, and for each image."""
    model = method.model
    text = _text(model, 1, 0)
    image = _image(model, model.spec, 1, 0) + _similarity(model, 1, 0)
    return (0, image + text) if model.spec.image_conditional else (text, image)


def _image(model, spec, batch, passes) -> int:
    visual = model.image_encoder.visual
    width, features = visual.proj.shape
    patches = len(visual.positional_embedding) - 1
    b = spec.vision_length if spec.M else 0
    views, length = batch * max(spec.M, 1), 1 + patches + b
    read = length if spec.token_level else 1
    if spec.score == "plot":
        read = patches + spec.add_global
    layers = len(visual.transformer.resblocks)
    total = 2 * batch * patches * visual.conv1.weight.numel()
    passes *= bool(spec.M)  # without visual prompts nothing goes back
    total += (1 + passes) * 2 * views * read * width * features
    for i in range(layers):
        replaced = b if i + 1 < spec.vision_depth else 0
        out = views * (read if i == layers - 1 else length - replaced)
        pairs = out * length
        if i == 0:
            static = batch * (1 + patches)
            prompts = views * (b - replaced), views * b
            total += Work(static + prompts[0], static + prompts[1], out, 2 * pairs).flops(width)
            backward = Work(*prompts, out, pairs)
        else:
            total += Work(out, views * length, out, 2 * pairs).flops(width)
            backward = Work(out, views * length, out, 4 * pairs)
        total += passes * backward.flops(width)
    return total


def _text(model, batch, passes) -> int:
    spec, text = model.spec, model.text_encoder
    if not spec.N:
        return 0
    width, features = text.text_projection.shape
    row, b = text.sentences[0], spec.text_length
    layers = len(text.transformer.resblocks)
    insert = text.insert_block or layers  # from there on classes share SOS alone
    cuts = [shared_length(row, spec.class_specific)] * insert
    cuts += [shared_length(row, class_specific=True)] * (layers - insert)
    classes, prompts = len(row), batch if spec.image_conditional else spec.N
    total = 0
    for i, prefix in enumerate(cuts):
        last = i == layers - 1
        suffixes = [sentence.eos + 1 - prefix for sentence in row]
        length = prefix + sum(suffixes)
        pairs = prefix * (prefix + 1) // 2 + sum(n * prefix + n * (n + 1) // 2 for n in suffixes)
        replaced = b if i + 1 < spec.text_depth or i + 1 == insert < layers else 0
        out, seen = prompts * (length - replaced), prompts * pairs
        moved = out - prompts  # SOS sees no prompt
        if last and spec.token_level:  # neither SOS nor the full stops
            out = moved = prompts * (length - 1 - classes)
            seen -= prompts * (1 + sum(prefix + n - 1 for n in suffixes))
        elif last:
            out = moved = prompts * classes
            seen = prompts * sum(prefix + n for n in suffixes)
        if last:
            total += 2 * (1 + passes) * out * width * features
        if i == 0:
            learned = prompts * (b - replaced), prompts * b
            static = length - b
            total += Work(static + learned[0], static + learned[1], out, 2 * seen).flops(width)
            total += passes * Work(*learned, moved, seen).flops(width)
        else:
            total += Work(out, prompts * length, out, 2 * seen).flops(width)
            back = Work(moved, prompts * (length - 1), moved, 4 * seen)
            total += passes * back.flops(width)
    return total


def _similarity(model, batch, passes) -> int:
    spec, text, visual = model.spec, model.text_encoder, model.image_encoder.visual
    patches = len(visual.positional_embedding) - 1
    sentences = text.sentences
    classes, features = len(sentences[0]), text.text_projection.shape[1]
    views = batch * max(spec.M, 1)
    texts = classes * max(spec.N, 1)
    pairs = batch * patches * texts if spec.score == "plot" else views * texts
    if spec.token_level:
        words = sum(sentence.end - 1 for row in sentences for sentence in row)
        words -= (classes - 1) * len(sentences) * text.layout.token_weights.shared
        pairs += views * (patches + (spec.vision_length if spec.M else 0)) * words
    return (1 + passes * (bool(spec.M) + bool(spec.N))) * 2 * pairs * features
