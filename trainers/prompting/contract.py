"""What a method must keep to, checked once: mistakes of its author that would pass without a word.

`check_class` looks at a class that is registered, `check_built` at a method that has been built.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from .encoders.added import SIDES, Added, blocks_of, check_added
from .encoders.class_text import SeveralSentences
from .encoders.descriptions import Asked, describe
from .encoders.uncalled import check_uncalled
from .errors import need

ENCODERS = ("text_encoder", "image_encoder")  # sub-modules of a method that hold the frozen CLIP
TENSORS = ("_parameters", "_buffers", "_modules")  # of a module, by name
OWN_TEXT = ("SENTENCES", "TEMPLATES", "TEMPLATE", "CTX_INIT")  # keys of nodes that say the same
PLAIN = {NoneType, bool, int, float, str}  # types without tensors below
POSITIONS = 3  # of the random states that a module is tried on
ROUNDING = 1e-3  # largest difference, relative to the largest value


def check_class(cls: type, base: type, capabilities: Sequence[type]) -> None:
    """Refuse what no method can be, in the bodies of a class and its bases.

    `capabilities` are the classes that have the hooks which `base` lacks.
    """
    has = (base, *(capability for capability in capabilities if issubclass(cls, capability)))
    lacks = {
        name: other.__name__
        for other in capabilities
        if other not in has
        for name in vars(other)
        if not (name.startswith("_") or name == "defaults" or any(hasattr(x, name) for x in has))
    }
    for kind in (kind for kind in cls.__mro__ if issubclass(kind, base) and kind is not base):
        need(
            "forward" not in vars(kind),
            f"{kind.__name__} overrides `forward`, which no training calls: override `output`, or "
            "one of the functions that it calls (`contexts`, `image_features`, `text_features`, "
            "`logits`)",
        )
        for name, value in vars(kind).items():
            need(
                name not in lacks,
                f"{kind.__name__} defines `{name}` of {lacks.get(name)}, from which it does not "
                f"inherit, so that nothing reads it: name {lacks.get(name)} as its first base, or "
                "choose another name",
            )
            of_base = next((getattr(one, name) for one in has if hasattr(one, name)), value)
            need(
                name.startswith("__") or _replaces(value, of_base),
                f"{kind.__name__} defines a function `{name}`, which replaces that of the base "
                "class but takes other arguments: choose another name, or take the same ones",
            )


def names_read(value: object) -> Iterator[str]:
    """Yield the names of attributes that a function, or a property, reads."""
    code = getattr(getattr(value, "fget", value), "__code__", value)
    if isinstance(code, CodeType):
        yield from code.co_names
        for inner in code.co_consts:
            yield from names_read(inner)


def _replaces(value: object, of_base: object) -> bool:
    """Return True if a value in a class body can be used as that of the base class is."""
    if not isinstance(value, FunctionType) or value is of_base:
        return True
    if not isinstance(of_base, FunctionType):
        return False
    kinds = [p.kind for p in signature(of_base).parameters.values()]
    try:
        signature(value).bind(*[None] * kinds.count(Parameter.POSITIONAL_OR_KEYWORD))
    except TypeError:
        return False
    return True


def with_sentences(kind: Any, settings: Any, clip_model: Any, names: Sequence[str]) -> Any:
    """Return the settings of a method with what its run asks for as `ClassText`."""
    asked = getattr(settings.sentences, "asked", settings.sentences)
    if asked is None:
        return settings
    check_sentences(kind, settings, asked)
    return replace(settings, sentences=describe(asked, names, clip_model))


def check_sentences(kind: Any, settings: Any, asked: Asked) -> None:
    """Raise a UserError if a method cannot use the sentences that its run asks for."""
    need(
        kind.rules,
        f"{kind.__name__} does not start from given sentences (DATASET.SENTENCES), as its text is "
        "learned or stands in its own keys: leave them out, or choose another method",
    )
    need(
        asked.rule in ("", *kind.rules),
        f"DATASET.SENTENCES_RULE is {asked.rule}, but {kind.__name__} normalises h0, or compares "
        f"images with one feature of each class: choose {' or '.join(kind.rules)}",
    )
    for key in OWN_TEXT:
        own = getattr(settings, key, None)
        need(
            not own or own == kind.defaults[key],
            f"DATASET.SENTENCES is given beside {kind.place(key)} {own!r:.60}: set one of them to "
            "''",
        )


def check_built(method: Any, clip_model: Any) -> None:
    """Refuse additions and contexts that do not fit, and what would be trained by mistake.

    Parameters with one name in checkpoints and changes of CLIP's blocks are refused, too. A
    UserError says which, and where.
    """
    name = type(method).__name__
    check_uncalled(name, method.uncalled)
    for side in SIDES:
        if added := method.blocks(side):
            blocks = blocks_of(clip_model, side)
            check_added(name, side, added, blocks)
            need(
                side == "image" or not isinstance(method.text_encoder, SeveralSentences),
                f"{name} learns inside the text encoder, which computes the sentences anew in each "
                "step: give one for each class (DATASET.SENTENCES)",
            )
            for i, addition in added.items():
                whole = side == "text" and method.text_encoder.layout.whole
                need(
                    addition.enter is None or not whole or not method.text_encoder.spans,
                    f"{name} lets tokens enter the text encoder and reads features of words, whose "
                    "positions attend to later ones in this backbone: choose another one",
                )
                place = f"{name} at block {i} of the {side} encoder"
                _check_positions(place, addition, blocks[i].attn.embed_dim)
    _check_contexts(method)
    frozen = {id(p) for p in clip_model.parameters()}
    own = dict(method.own_parameters())
    of_clip = [place for place, p in own.items() if id(p) in frozen]
    of_clip += [place for place, p in clip_model.named_parameters() if p.requires_grad]
    need(
        not of_clip,
        f"{name} would train '{of_clip and of_clip[0]}', a parameter of CLIP itself: learn an "
        "addition to it instead (`blocks`)",
    )
    for place, module in method.named_modules():
        whole = hasattr(module, "visual") and hasattr(module, "logit_scale")
        need(
            not (whole and any(p.requires_grad for p in module.parameters())),
            f"{name} would train '{place}', a whole CLIP: make it a frozen one, "
            "Teacher(clip_model, classnames, templates)",
        )
    check_registered(method)
    names = [method.public_name(place) for place in own]
    twice = {public for public in names if names.count(public) > 1}
    need(not twice, f"{name} has two parameters that checkpoints call {', '.join(twice)}")


def _check_contexts(method: Any) -> None:
    """Refuse contexts that do not fit the encoders; wrong ones would replace other states."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        contexts = method.contexts()
    text, image = method.text_encoder, method.image_encoder
    if contexts.text and text.closed is None:
        depth, slots = len(text.transformer.resblocks), len(text.sentences[0][0].slots)
        _check_shapes("text", contexts.text, depth, slots, text.class_specific)
    if contexts.vision and image.is_vit:
        _check_shapes("image", contexts.vision, len(image.visual.transformer.resblocks))


def _check_shapes(
    side: str,
    contexts: Sequence[torch.Tensor],
    depth: int,
    slots: int | None = None,
    class_specific: bool = False,
) -> None:
    """Refuse more contexts than blocks, and contexts of a wrong length.

    For each depth, contexts are (N, b, W), or (N, K, b, W) if they are class-specific; `slots` are
    the learned tokens of a sentence, None for images.
    """
    dims = 4 if class_specific else 3
    shapes = [tuple(context.shape) for context in contexts]
    lengths = [shape[-2] for shape in shapes if len(shape) == dims]
    fits = len(lengths) == len(shapes) <= depth and lengths[0] == max(lengths)
    of_slots = "" if slots is None else f", and sentences with {slots} learned tokens"
    need(
        fits and slots in (None, lengths[0]),
        f"The {side} encoder has {depth} blocks{of_slots}, but `contexts` gives it {shapes}: give "
        f"at most one context ({'N, K, b, W' if class_specific else 'N, b, W'}) for each block, "
        "none longer than the first",
    )


def check_registered(method: Any) -> None:
    """Refuse tensors that learn but are no parameters of a method, which nothing would train."""
    own = {id(p) for _, p in method.own_parameters()}
    for place, value in tensors_below(method):
        need(
            id(value) in own or not (value.requires_grad and value.is_leaf),
            f"{type(method).__name__} keeps a tensor that requires a gradient in '{place}', where "
            "nothing trains or saves it: make it a parameter (nn.Parameter, nn.ParameterList, "
            "nn.ModuleList, nn.ModuleDict) in `build`, or freeze it with requires_grad_(False)",
        )


def tensors_below(method: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors below a method with their places, without descending into functions."""
    queue: list[tuple[str, Any]] = [("", method)]  # it grows, and so keeps ids from being reused
    queue += [(f"blocks('{side}')", method.blocks(side)) for side in SIDES]
    seen: set[int] = set()
    for place, value in queue:
        if isinstance(value, torch.Tensor):
            yield place, value
            continue
        if id(value) in seen or isinstance(value, str | type | FunctionType | ModuleType):
            continue
        seen.add(id(value))
        if place in ENCODERS:  # of CLIP, with long sentences
            queue += [(f"{place}.{name}", p) for name, p in value.named_parameters()]
            continue
        inside: Iterable[tuple[object, object]] = getattr(value, "__dict__", {}).items()
        if isinstance(value, dict | Mapping):  # `dict` first: asking Mapping takes far longer
            inside = value.items()
        elif isinstance(value, list | tuple | set):
            inside = enumerate(value)
        for key, item in inside:
            if type(item) not in PLAIN and not (isinstance(item, dict) and not item):
                name = place if key in TENSORS else f"{place}.{key}".lstrip(".")
                queue.append((name, item))


def _check_positions(where: str, addition: Added, W: int) -> None:
    """Refuse a module of an addition whose output at a position depends on other positions."""
    for name, module in addition._replace(weights={}).modules().items():
        if any(p.is_meta for p in module.parameters()):
            continue
        apart = _mixing(module, W, inputs=2 if name == "beside" else 1)
        need(
            apart <= ROUNDING,
            f"{where} has '{name}', whose output at a position depends on other positions (off by "
            f"{apart:.1g}), but only some of them are computed: use layers that treat each "
            "position for itself, such as nn.Linear",
        )


@torch.no_grad()
def _mixing(module: nn.Module, W: int, inputs: int) -> float:
    """Return how far outputs of a module, whole and by position, are apart, with random weights.

    Its own weights may be 0 at first.
    """
    random = torch.Generator().manual_seed(0)
    training = {part: part.training for part in module.modules()}
    module.eval()
    tensors = dict(module.named_parameters())
    drawn = {name: torch.randn(p.shape, generator=random).to(p) for name, p in tensors.items()}
    like = next(iter(tensors.values()), torch.empty(0))
    states = [torch.randn(1, POSITIONS, W, generator=random).to(like) for _ in range(inputs)]
    whole = functional_call(module, drawn, tuple(states))
    each = [
        functional_call(module, drawn, tuple(x[:, i : i + 1] for x in states))
        for i in range(POSITIONS)
    ]
    for part, mode in training.items():
        part.training = mode
    return float((whole - torch.cat(each, 1)).abs().max() / whole.abs().max().clamp_min(1e-30))


def check_calibrated(method: Any, output: Any, batch: Any) -> None:
    """Raise UserError for a step that TCPT's terms have no meaning in."""
    h, B, K = output.text.h, len(output.logits), method.num_classes
    wrong = {
        "it has a text for each image": method.conditional,
        f"it has {len(h)} prompts a class": len(h) > 1,
        "its steps compare images with some classes only": h.shape[1] != K,
        "its text does not learn": not h.requires_grad,
        "its images have no label, or several": batch.labels.shape != (B,),
        "there is no other class": K == 1,
    }
    why = next((reason for reason, holds in wrong.items() if holds), "")
    need(not why, f"{method.place('CALIBRATE')} is True, but {why}: leave it out")


def check_logits(method: Any, output: Any) -> None:
    """Raise UserError for logits that are not one number for each image and class."""
    shape, expected = tuple(output.logits.shape), (len(output.image.z), method.num_classes)
    need(
        shape == expected,
        f"The logits of {type(method).__name__} have the shape {shape} but must have {expected}, "
        "of images and classes: check its `logits`",
    )
