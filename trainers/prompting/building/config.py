"""Translates between Dassl's cfg nodes and methods: adds their keys, reads their settings."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from .. import methods  # noqa: F401 (which registers those that are built in)
from ..backbones import family_of
from ..backbones.closed import Closed
from ..capabilities.at_test_time import count_views
from ..checkpoint.identity import leaves
from ..checkpoint.keys import KEYS
from ..encoders.descriptions import Asked
from ..encoders.sides import features_width
from ..errors import ClosedSide, UserError, nearest, need
from ..method import METHODS, Method, find_method
from ..node import Settings, check_values
from .by_run import SECTIONS, for_run
from .keys import value_at
from .support import give_images


def add_nodes(cfg: CfgNode) -> None:
    """Add the keys of every method, under the names of the public repositories, to a Dassl cfg.

    Keys that the cfg already has stay as they are: they belong to the surrounding checkout. Where
    methods share a key but not its default, the cfg has None, which each method replaces by its
    own default. None also replaces an empty CTX_INIT of the other kind (words or a switch,
    depending on the public code), because yacs converts only None to any type.
    """
    for place, default in _places().items():
        *path, key = place.split(".")
        node = cfg
        for part in path:
            if part not in node:  # making a node takes longer than all else here
                node[part] = CfgNode()
            node = node[part]
        value = node.setdefault(key, default)
        if key == "CTX_INIT" and type(value) is not type(default) and not (value or default):
            node[key] = None
    for section in SECTIONS:
        cfg.setdefault(section, CfgNode(new_allowed=True))
    for place, known in KEYS.items():
        section, _, key = place.rpartition(".")
        if known.read_by != "here" and isinstance(node := value_at(cfg, section), dict):
            node.setdefault(key, copy.copy(known.default))


def resolve(cfg: CfgNode) -> CfgNode:
    """Return the cfg with its sections for some runs (`by_run`) resolved for this run.

    This project's train.py resolves them itself; in other checkouts they are still in the cfg.
    """
    sections = dict(leaves({name: cfg[name] for name in SECTIONS if name in cfg}))
    if not sections:
        return cfg
    data = cfg.DATASET
    values = for_run(sections, data.NAME, data.NUM_SHOTS, data.SUBSAMPLE_CLASSES)
    cfg = cfg.clone()
    cfg.defrost()
    for name in SECTIONS:
        cfg.pop(name, None)
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.freeze()
    return cfg


def fit_images(cfg: CfgNode, clip_model: Any) -> tuple[CfgNode, list[str]]:
    """Set the size, normalisation and interpolation of images as the backbone expects them.

    Returns:
        A new cfg, and a description of each key that changed.
    """
    family, size = family_of(clip_model), clip_model.visual.input_resolution
    expected = {
        "SIZE": (size, size),
        "PIXEL_MEAN": list(family.mean),
        "PIXEL_STD": list(family.std),
        "INTERPOLATION": family.interpolation,
        "RESIZE": family.resize,
    }
    changes = {k: v for k, v in expected.items() if _plain(cfg.INPUT[k]) != _plain(v)}
    descriptions = [f"INPUT.{k} {v} (it was {cfg.INPUT[k]})" for k, v in changes.items()]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.update(changes)
    cfg.freeze()
    return cfg, descriptions


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _places() -> dict[str, object]:
    """Map the dotted place of each key of all methods to its default.

    The default is None where methods disagree.
    """
    places: dict[str, object] = {}
    for method in METHODS.values():
        keys = {method.place(key): default for key, default in method.defaults.items()}
        keys |= {method.place(key): None for key in method.public.ignored}
        for place, default in keys.items():
            same = places.setdefault(place, default) == default
            places[place] = default if same else None
    return places


def settings_in(
    cfg: CfgNode,
    method: type[Method],
    about: Mapping[str, Any] | None = None,
    several: bool = False,
) -> Settings:
    """Return the settings of a method in a cfg; arguments and errors as of `read_node`."""
    asked = asked_in(cfg, about)
    return read_node(method, values_in(cfg, method), cfg.DATASET.NAME, asked, several)


def asked_in(cfg: CfgNode, about: Mapping[str, Any] | None = None) -> Asked | None:
    """Return the sentences that a cfg asks for; `about` is the content of its file."""
    source, rule = (cfg.DATASET[key] for key in ("SENTENCES", "SENTENCES_RULE"))
    need(
        source or not rule,
        "DATASET.SENTENCES_RULE is set without sentences: set DATASET.SENTENCES, too",
    )
    return Asked(about or str(source), rule) if source else None


def values_in(cfg: CfgNode, method: type[Method]) -> dict[str, Any]:
    """Return the values in a cfg of a method's keys, without other methods' keys in the same node.

    In texts, `{run}` is the folder of the run, `{seed}` its seed and `{dataset}` its data set. A
    printed warning names keys that were set but mean nothing to the method.
    """
    keys = (*method.defaults, *method.public.ignored)
    values = {key: _fill(value_at(cfg, method.place(key)), cfg) for key in keys}
    places = _places()
    node = cfg.TRAINER.get(method.node, {})
    others = [key for key in node if key not in values]
    _warn_ignored([
        place
        for place in (f"TRAINER.{method.node}.{key}" for key in others)
        if place in places and node[place.rpartition(".")[2]] != places[place]
    ])  # fmt: skip
    return values


def _fill(value: Any, cfg: CfgNode) -> Any:
    if not isinstance(value, str):
        return value
    of_run = {"run": cfg.OUTPUT_DIR or "{run}", "seed": cfg.SEED, "dataset": cfg.DATASET.NAME}
    for name, text in of_run.items():
        value = value.replace(f"{{{name}}}", str(text))
    return value


def read_node(
    method: type[Method],
    values: Mapping[str, Any],
    dataset: str = "",
    sentences: Any = None,
    several: bool = False,
) -> Settings:
    """Return the complete settings of a method, with defaults in place of None.

    Args:
        method: the class.
        values: keys of the method's node; missing ones, and those that are None, take the
            defaults. A printed warning names keys that the method ignores.
        dataset: name of the data set.
        sentences: those that the run asks for.
        several: True if images have several labels.
    """
    for key in values:
        if key not in method.defaults and key not in method.public.ignored:
            raise UserError(
                f"TRAINER.{method.node} has no key '{key}': {nearest(key, method.defaults)}"
            )
    _warn_ignored([method.place(k) for k in method.public.ignored if values.get(k) is not None])
    settings = {
        key: value
        for key, value in values.items()
        if value is not None and key not in method.public.ignored
    }
    check_values(method.Settings, settings, method.place)
    if settings.get("CTX_INIT") is False and not isinstance(method.defaults["CTX_INIT"], bool):
        settings["CTX_INIT"] = ""
    return method.Settings(**settings, dataset=dataset, sentences=sentences, several=several)


def _warn_ignored(places: list[str]) -> None:
    if places:
        print(f"warning: ignored, as this method does not use them: {', '.join(places)}")


class _Blank(nn.Module):
    """An encoder that gives features without values."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(x.shape[0], self.width, device="meta")


def methods_on(clip_model: Any) -> dict[str, str]:
    """Return for each method an empty text if it runs on a CLIP with its defaults, else the reason.

    Each is built on a copy of the CLIP without weights.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> methods_on(load_clip("emoji"))["CoOp"]
        ''
    """
    memo: dict[int, Any] = {}
    for x in (*clip_model.parameters(), *clip_model.buffers()):
        empty = torch.empty_like(x, device="meta")
        memo[id(x)] = nn.Parameter(empty, False) if isinstance(x, nn.Parameter) else empty
    skeleton, reasons = copy.deepcopy(clip_model, memo), {}
    rows = isinstance(getattr(skeleton.visual, "inner", None), nn.Identity)
    for side in skeleton.children():
        if isinstance(side, Closed):  # it may read values, which there are none of
            side.inner = _Blank(features_width(clip_model))
    for name, kind in sorted(METHODS.items()):
        reasons[name] = ""
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                method = kind(read_node(kind, {}), skeleton, ["cat", "dog"])
            if rows and count_views(method) > 1:
                reasons[name] = "it reads random views, and rows of features are without"
        except UserError as error:
            reasons[name] = str(error)
    return reasons


def make(
    kind: type[Method], settings: Settings, clip_model: Any, names: Sequence[str], dataset: str
) -> Method:
    """Return a method that is built for a CLIP."""
    try:
        return kind(settings, clip_model, names, dataset)
    except ClosedSide as error:
        if error.remedy:
            raise
        runnable = [name for name, reason in methods_on(clip_model).items() if not reason]
        remedy = f"choose another backbone, or one of {', '.join(runnable)}"
        raise ClosedSide(error.side, error.does, remedy) from None


def build_method(
    name: str,
    node: Mapping[str, Any],
    clip_model: Any,
    classnames: Sequence[str],
    dataset: str = "",
    support: Mapping[str, Any] | None = None,
    sentences: Asked | str | None = None,
    several: bool = False,
) -> Method:
    """Build a method in plain PyTorch, without Dassl.

    Args:
        name: of the method, e.g. `KgCoOp`.
        node: its keys, flat: a key that a public code keeps outside the method's node has its
            last name here (`T` for `LOSS.T`). Missing ones take the defaults.
        clip_model: a CLIP from `load_clip`. Its modules are shared and frozen, not copied.
        classnames: K names; `_` reads as a space.
        dataset: name of the data set, which selects hand-written sentences.
        support: for a method that takes it (`OnSupport`), the training set as `images`,
            (n, 3, H, W) or (passes, n, 3, H, W) of several augmentations, normalised, and `labels`,
            (n,), or (n, K) of several. Its features are computed here, on the CPU, and kept;
            `images` may be rows of them, (n, D).
        sentences: about the classes, for a method that starts from some, as DATASET.SENTENCES.
        several: True for images with several labels, (B, K) of int8: 1 present, 0 absent, -1
            unknown.

    Returns:
        The model: `method(images)` gives logits, `.losses(images, labels)` the loss. Gradients come
        from `.backward(terms)`, which is `terms["loss"].backward()` for most methods.

    Raises:
        UserError: unknown method or key, values that contradict each other or do not fit.

    Examples:
        >>> import torch
        >>> from trainers.prompting import load_clip
        >>> method = build_method("KgCoOp", {"N_CTX": 4}, load_clip("emoji"), ["cat", "dog"])
        >>> list(method.losses(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])))
        ['loss', 'ce', 'kg']
    """
    kind = find_method(name)
    asked = Asked(sentences) if isinstance(sentences, str) else sentences
    settings = read_node(kind, node, dataset, asked, several)
    method = make(kind, settings, clip_model, classnames, dataset)
    if support is not None:
        give_images(method, support)
    return method
