"""Between cfg nodes and methods: which keys there are, what a user has set, what it means."""

from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from .. import methods  # noqa: F401 (registers those that are built in)
from ..backbones import family_of
from ..errors import UserError, nearest
from ..method import METHODS, Method, find_method
from ..node import Settings, check_values
from ..spec import PromptSpec
from . import schedule
from .by_run import SECTIONS, for_run, leaves
from .support import given_support


def add_nodes(cfg: CfgNode) -> None:
    """Add the keys of every method, under the names of the public repositories, to a Dassl cfg.

    What the cfg has already stays as it is: it belongs to the checkout around us. Where methods
    share a key of which each has a default of its own, the cfg has None, and a method takes its
    own for it. None also replaces an empty CTX_INIT of the other kind: some public codes have
    words there and some a switch, which yacs lets only None become.
    """
    for place, default in _places().items():
        *path, key = place.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        found = node.setdefault(key, default)
        if key == "CTX_INIT" and type(found) is not type(default) and not (found or default):
            node[key] = None
    for section in SECTIONS:
        cfg.setdefault(section, CfgNode(new_allowed=True))
    cfg.DATASET.setdefault("SUBSAMPLE_CLASSES", "all")  # all, base or new
    cfg.DATALOADER.TRAIN_X.setdefault("DROP_LAST", True)  # the last batch, if it is short
    for key, default in schedule.KEYS.items():
        cfg.OPTIM.setdefault(key, default)
    cfg.TEST.setdefault("PREDICTIONS", True)  # keep what is said of each test image
    cfg.TEST.setdefault("OOD", [])  # data sets of other classes, for detection
    cfg.TRAINER.setdefault("MEMORY_BUDGET", 0.0)  # GiB for a step's activations; 0 asks the machine
    cfg.TRAINER.setdefault("COMPILE", False)  # let torch.compile fuse the blocks
    cfg.TRAINER.setdefault("DETERMINISTIC", False)  # the same bits on a GPU, too, but slower
    cfg.TRAINER.setdefault("PLUGINS", [])  # modules or files that register methods
    cfg.TRAINER.setdefault("PER_DATASET", [])  # keys of the method that a config sets by data set


def resolved(cfg: CfgNode) -> CfgNode:
    """The cfg with what it has for such a run alone, where its `train.py` has left that there."""
    sections = dict(leaves({name: cfg[name] for name in SECTIONS if name in cfg}))
    if not sections:
        return cfg
    data = cfg.DATASET
    own = for_run(sections, data.NAME, data.NUM_SHOTS, data.SUBSAMPLE_CLASSES)
    cfg = cfg.clone()
    cfg.defrost()
    for name in SECTIONS:
        cfg.pop(name, None)
    cfg.merge_from_list([part for pair in own.items() for part in pair])
    cfg.freeze()
    return cfg


def fitted(cfg: CfgNode, clip_model: Any) -> tuple[CfgNode, list[str]]:
    """The cfg with images as its backbone reads them: size, normalisation and interpolation.

    Returns:
        A cfg, and what has changed in it, a few words each.
    """
    family, size = family_of(clip_model), clip_model.visual.input_resolution
    wanted = {
        "SIZE": (size, size),
        "PIXEL_MEAN": list(family.mean),
        "PIXEL_STD": list(family.std),
        "INTERPOLATION": family.interpolation,
    }
    changed = {k: v for k, v in wanted.items() if _plain(cfg.INPUT[k]) != _plain(v)}
    told = [f"INPUT.{k} {v} (it was {cfg.INPUT[k]})" for k, v in changed.items()]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.update(changed)
    cfg.freeze()
    return cfg, told


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _value(cfg: CfgNode, place: str) -> Any:
    """What a cfg has at a dotted place; None if nothing."""
    node = cfg
    for part in place.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return node


def _places() -> dict[str, object]:
    """Dotted place in a cfg -> default, for the keys of all methods."""
    places: dict[str, object] = {}
    for method in METHODS.values():
        own = {method.place(key): default for key, default in method.defaults.items()}
        own |= {method.place(key): None for key in method.ignored}
        for place, default in own.items():
            same = places.setdefault(place, default) == default
            places[place] = default if same else None
    return places


def settings_in(cfg: CfgNode, method: type[Method]) -> Settings:
    """The settings of a method in a cfg; raises as `read_node`."""
    return read_node(method, values_in(cfg, method), cfg.DATASET.NAME)


def values_in(cfg: CfgNode, method: type[Method]) -> dict[str, Any]:
    """What a cfg has for the keys of a method; those of other methods in the same node are left.

    A key that means nothing to the method, but has been set, is named in a printed warning.
    """
    keys = (*method.defaults, *method.ignored)
    values = {key: _value(cfg, method.place(key)) for key in keys}
    places = _places()
    node = cfg.TRAINER.get(method.node, {})
    others = [key for key in node if key not in values]
    _warn_ignored([
        place
        for place in (f"TRAINER.{method.node}.{key}" for key in others)
        if place in places and node[place.rpartition(".")[2]] != places[place]
    ])  # fmt: skip
    return values


def read_node(method: type[Method], values: Mapping[str, Any], dataset: str = "") -> Settings:
    """The settings of a method in full, in which no key is None whose default is not.

    Args:
        method: the class.
        values: keys of the method's node; missing ones, and those that are None, take the
            defaults. One that means nothing here is named in a printed warning.
        dataset: name of the data set.

    Raises:
        UserError: unknown key, or a value of the wrong kind.
    """
    for key in values:
        if key not in method.defaults and key not in method.ignored:
            raise UserError(
                f"TRAINER.{method.node} has no key '{key}': {nearest(key, method.defaults)}"
            )
    _warn_ignored([method.place(k) for k in method.ignored if values.get(k) is not None])
    given = {
        key: value
        for key, value in values.items()
        if value is not None and key not in method.ignored
    }
    check_values(method.Settings, given, method.place)
    if given.get("CTX_INIT") is False and not isinstance(method.defaults["CTX_INIT"], bool):
        given["CTX_INIT"] = ""
    return method.Settings(**given, dataset=dataset)


def _warn_ignored(places: list[str]) -> None:
    if places:
        print(f"warning: ignored, as they mean nothing here: {', '.join(places)}")


def prompt_spec(name: str, node: Mapping[str, Any], dataset: str = "") -> PromptSpec:
    """A method's point in the space of prompts from its cfg node.

    Args:
        name: of the method, e.g. `MaPLe`.
        node: keys of its node; missing ones take the defaults.
        dataset: name of the data set, where sentences depend on it.

    Raises:
        UserError: unknown method or key, or values that contradict each other.

    Examples:
        >>> prompt_spec("MaPLe", {"PROMPT_DEPTH": 3}).text_depth
        3
    """
    method = find_method(name)
    return method.point(read_node(method, node, dataset))


def build_method(
    name: str,
    node: Mapping[str, Any],
    clip_model: Any,
    classnames: Sequence[str],
    dataset: str = "",
    support: Mapping[str, Any] | None = None,
) -> Method:
    """A method in plain PyTorch, without Dassl.

    Args:
        name: of the method, e.g. `KgCoOp`.
        node: flat: keys that a public code keeps outside the method's node stand in it under
            their last name (`T` for `LOSS.T`). Missing ones take the defaults.
        clip_model: what `load_clip` gives. Its modules are shared and frozen, not copied.
        classnames: K names; `_` reads as a space.
        dataset: name of the data set, which selects hand-written sentences.
        support: for a method that takes it (`Method.support_passes`), the training set as `images`,
            (n, 3, H, W) or (passes, n, 3, H, W) of several augmentations, normalised, and `labels`,
            (n,). Its features are computed here, on the CPU, and kept.

    Returns:
        A module with `.model`, its `PromptedCLIP`, and `.losses(images, labels)`. Its gradients
        come from `.backward(terms)`, which is `terms["loss"].backward()` for most methods.

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
    method = kind(read_node(kind, node, dataset), clip_model, classnames, dataset)
    if support is not None:
        given_support(method, support)
    return method
