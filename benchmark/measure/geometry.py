"""Full-size CLIPs with random weights, and the operations that a step needs at least."""

from functools import cache
from typing import NamedTuple

import torch

from trainers.prompting import Method, build_clip
from trainers.prompting.encoders.added import NOTHING, entering
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
    """Return a CLIP of a geometry: numbers in the order of ARGUMENTS."""
    return build_clip(dict(zip(ARGUMENTS, geometry, strict=True)))


@cache
def weightless_clip(name: str):
    """Return an untrained CLIP by its name in GEOMETRY, on the meta device: it takes no memory."""
    with torch.device("meta"):
        return untrained_clip(GEOMETRY[name])


def class_names(count: int) -> list[str]:
    """Return distinct class names of one to three words, always the same for the same count."""
    names = []
    for i in range(count):
        words = [WORDS[i % 12], WORDS[i // 12 % 12], WORDS[i // 144 % 12]]
        names.append(" ".join(words[: 1 + i % 3]) if i < 12 else " ".join(words))
    return names


class Work(NamedTuple):
    """The work of one transformer block on all its sequences, counted in positions.

    q, kv: positions projected to queries, and to keys and values; o, fc, proj: positions that pass
    the output projection and both matrices of the MLP; products: pairs of a query and a key, once
    for each matrix product over them.
    """

    q: int
    kv: int
    o: int
    fc: int
    proj: int
    products: int

    @classmethod
    def of(cls, q: int, kv: int, out: int, products: int) -> "Work":
        """Return the work of a block where `out` positions are read afterwards."""
        return cls(q, kv, out, out, out, products)

    def flops(self, width: int) -> int:
        """Return the operations of this work on states of a width."""
        matrices = 2 * self.q + 4 * self.kv + 2 * self.o + 8 * (self.fc + self.proj)
        return width**2 * matrices + 2 * width * self.products


# What a step of a method needs besides one forward and backward pass of its prompted CLIP.
FROZEN_IMAGES = {"PromptSRC": 1, "CoPrompt": 1}  # passes of the untouched image encoder
BACKWARD_PASSES = {"ProGrad": 2}  # one for each loss whose gradient it compares


def necessary_flops(method: Method, batch: int) -> dict[str, int]:
    """Count the operations of a training step, forward and backward, that no shortcut can avoid.

    - An image passes once per visual prompt, the words before the class name once per textual
      prompt, and a class name once per prompt and class.
    - In the first block, tokens that have not attended to a prompt yet are shared by all prompts.
    - Only what is read later is computed: in the last block no more than the scores use, and not
      the states that the next block's prompts replace.
    - The backward pass needs one product for a frozen layer (the gradient of its input only) and
      none for what depends on no trained parameter; attention and similarity need two for each
      product of the forward pass.
    - What a method adds to a block is applied once at each position, and needs two products in the
      backward pass.
    - Text is constant before the first trained part; images are constant where a method trains on
      features that it keeps.

    Left out, because small: the prompt learner, parts around the encoders, the solver's iterations,
    and everything that is not a matrix product.

    Args:
        method: with a ViT, and with contexts before the class name.
        batch: images of a step.

    Returns:
        Operations of `image` and `text` (the encoders), `similarity`, and `frozen` (further passes
        of the untouched image encoder).
    """
    model, spec, name = method.model, method.model.spec, type(method).__name__
    passes = BACKWARD_PASSES.get(name, 1)
    image = frozen = 0
    if not method.trains_on_support:
        added = model.parts.blocks("image")
        as_it_is = spec.with_(M=0, beta=0, states=0, values=False)
        image = _image(model, spec, batch, passes, added)
        frozen = FROZEN_IMAGES.get(name, 0) * _image(model, as_it_is, batch, 0, {})
        if spec.untouched and added:  # up to the first added part both passes are the same
            frozen += _image(model, as_it_is, batch, 0, {}, min(added))
    return {
        "image": image,
        "text": _text(model, batch, passes),
        "similarity": _similarity(method, batch, passes),
        "frozen": frozen,
    }


def evaluation_flops(method: Method) -> tuple[int, int]:
    """Return the operations of an evaluation, for the text (once) and for each image.

    They are counted as in `necessary_flops`. The text counts for each image where it depends on it.
    """
    model = method.model
    text = _text(model, 1, 0)
    image = _image(model, model.spec, 1, 0, model.parts.blocks("image"))
    image += _similarity(method, 1, 0)
    return (0, image + text) if model.spec.image_conditional else (text, image)


def _block(width: int, here: Work, back: Work, fresh: Work | None, added, live, passes) -> int:
    """Return the operations of a block: forward, and `passes` times backward.

    Args:
        width: of the states.
        here: the block's work in the forward pass.
        back: its work in the backward pass if its input has a gradient.
        fresh: its work in the backward pass if only tokens that enter at this block have one.
        added: the parts that a method adds to the block.
        live: True if the block's input has a gradient.
        passes: backward passes.
    """
    places = {"q": here.q, "k": here.kv, "v": here.kv, "o": here.o, "fc": here.fc, "proj": here.o}
    own = sum(places[name] * _size(update) for name, update in added.weights.items())
    if added.beside is not None:
        own += here.o * _size(added.beside)
    if not live:
        back = fresh or _back_from(added.weights.keys(), here)
    own *= 2 + 2 * passes * (1 + live)  # the gradients of its weights, and of its input
    return here.flops(width) + own + passes * back.flops(width)


def _back_from(updated, here: Work) -> Work:
    """Return the backward work of a block with updated matrices whose input needs no gradient."""
    products = here.products // 2
    attention = not updated.isdisjoint("qkv")
    o = here.o * attention
    fc = here.fc * (attention or "o" in updated)
    proj = fc or here.proj * ("fc" in updated)
    scores = len(updated & {"q", "k"})
    return Work(0, 0, o, fc, proj, products * (("v" in updated) + scores + (scores > 0)))


def _size(module) -> int:
    """Count the entries of the matrices in a module that acts on each position."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 2)


def _entered(added, i: int) -> int:
    """Count the added tokens that are in the sequence at block i."""
    return entering({j: here for j, here in added.items() if j <= i})


def _replaced(added, i: int) -> int:
    """Count the added tokens of block i that the next block replaces."""
    following = added.get(i + 1, NOTHING).enter
    return 0 if following is None else _entered(added, i)


def _image(model, spec, batch, passes, added, since=0) -> int:
    """Return the operations of the image encoder on a batch, from block `since` on."""
    visual = model.image_encoder.visual
    width, features = visual.proj.shape
    patches = len(visual.positional_embedding) - 1
    b = spec.vision_length if spec.M else 0
    views, layers = batch * max(spec.M, 1), len(visual.transformer.resblocks)
    first = 0 if spec.M else min(added, default=layers)  # before it nothing is trained
    passes *= first < layers
    total = 0 if since else 2 * batch * patches * visual.conv1.weight.numel()
    if 0 in added and added[0].before is not None:
        total += 2 * (1 + passes) * batch * (1 + patches) * _size(added[0].before)
    for i in range(since, layers):
        here, n = added.get(i, NOTHING), _entered(added, i)
        length = 1 + patches + b + n
        replaced = (b if i + 1 < spec.vision_depth else 0) + _replaced(added, i)
        read = views * (length - replaced)
        if i == layers - 1:
            read = views * (length if spec.token_level else 1 + spec.states)
            if spec.score == "plot":
                read = views * (patches + spec.add_global)
        out = read + views * patches * (spec.values and i == layers - 1)
        new = n if here.enter is not None else 0
        if i == 0:
            new += b
            static = batch * (1 + patches)
            work = static + views * (new - replaced), static + views * new
        else:
            work = read, views * length
        pairs = read * length
        total += _block(
            width,
            Work.of(*work, out, 2 * pairs),
            Work.of(read, views * length, out, 4 * pairs),
            Work.of(views * (new - replaced), views * new, out, pairs) if new else None,
            here,
            i > first or (i == 0 and here.before is not None),
            passes * (i >= first),
        )
    return total + (1 + passes) * 2 * (out - views * spec.states) * width * features


def _text(model, batch, passes) -> int:
    """Return the operations of the text encoder on all prompts and classes."""
    spec, text, added = model.spec, model.text_encoder, model.parts.blocks("text")
    width, features = text.text_projection.shape
    row, b = text.sentences[0], spec.text_length if spec.N else 0
    layers = len(text.transformer.resblocks)
    first = 0 if spec.N else min(added, default=layers)  # before it nothing is trained
    insert = text.insert_block or layers  # from there on, classes share only SOS
    cuts = [shared_length(row, spec.class_specific)] * insert
    cuts += [shared_length(row, class_specific=True)] * (layers - insert)
    classes, prompts = len(row), batch if spec.image_conditional else max(spec.N, 1)
    total = 0
    for i, cut in enumerate(cuts):
        if passes and i < first:
            continue
        last, here, n = i == layers - 1, added.get(i, NOTHING), _entered(added, i)
        prefix = cut + n
        suffixes = [sentence.eos + 1 - cut for sentence in row]
        length = prefix + sum(suffixes)
        pairs = prefix * (prefix + 1) // 2 + sum(m * prefix + m * (m + 1) // 2 for m in suffixes)
        replaced = b if i + 1 < spec.text_depth or i + 1 == insert < layers else 0
        replaced += _replaced(added, i)
        out, seen = prompts * (length - replaced), prompts * pairs
        moved = out - prompts  # SOS sees no prompt
        if last and spec.token_level:  # SOS and the full stops are not read
            out = moved = prompts * (length - 1 - classes)
            seen -= prompts * (1 + sum(prefix + m - 1 for m in suffixes))
        elif last:
            out = moved = prompts * classes
            seen = prompts * sum(prefix + m for m in suffixes)
        if last:
            total += 2 * (1 + passes) * out * width * features
        new = n if here.enter is not None else 0
        work = out, prompts * length
        if i == 0:
            new += b
            work = length - new + prompts * (new - replaced), length - new + prompts * new
            if here.before is not None:
                total += 2 * (1 + passes) * (length - new) * _size(here.before)
        total += _block(
            width,
            Work.of(*work, out, 2 * seen),
            Work.of(moved, prompts * (length - 1), moved, 4 * seen),
            Work.of(prompts * (new - replaced), prompts * new, moved, seen) if new else None,
            here,
            i > first or (i == 0 and here.before is not None),
            passes,
        )
    return total


def _similarity(method, batch, passes) -> int:
    """Return the operations of the cosines between image and text features."""
    model, spec = method.model, method.model.spec
    text, visual = model.text_encoder, model.image_encoder.visual
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
    sides = bool(spec.M or model.parts.blocks("image")) + bool(spec.N or model.parts.blocks("text"))
    if method.trains_on_support:  # only text features have a gradient
        sides = 1
    return (1 + passes * sides) * 2 * pairs * features
