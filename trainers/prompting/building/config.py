"""Translates between Dassl's cfg nodes and methods: adds their keys, reads their settings."""

import copy
from typing import Any

from yacs.config import CfgNode

from ..backbones import family_of
from ..backbones.positions import interpolate_positions
from ..checkpoint.identity import leaves
from ..checkpoint.keys import KEYS
from ..encoders.descriptions import Asked
from ..errors import need
from ..method import METHODS, Method, import_methods
from ..node import Settings, fill, read_node, warn_ignored
from .by_run import SECTIONS, for_run
from .keys import value_at

import_methods()  # whose keys are added


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

    With INPUT.INTERPOLATE, the size stays, and the positions of the backbone are interpolated.

    Returns:
        A new cfg, and a description of each key that changed.
    """
    if cfg.INPUT.get("INTERPOLATE"):
        interpolate_positions(clip_model.visual, cfg.INPUT.SIZE[0])
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


def settings_in(cfg: CfgNode, method: type[Method], several: bool = False) -> Settings:
    """Return the settings of a method in a cfg, with the sentences that it asks for."""
    source, rule = (cfg.DATASET[key] for key in ("SENTENCES", "SENTENCES_RULE"))
    need(
        source or not rule,
        "DATASET.SENTENCES_RULE is set without sentences: set DATASET.SENTENCES, too",
    )
    asked = Asked(str(source), rule) if source else None
    settings: Settings = read_node(method, values_in(cfg, method), cfg.DATASET.NAME, asked, several)
    return settings


def values_in(cfg: CfgNode, method: type[Method]) -> dict[str, Any]:
    """Return the values in a cfg of a method's keys, without other methods' keys in the same node.

    In texts, `{run}` is the folder of the run, `{seed}` its seed and `{dataset}` its data set. A
    printed warning names keys that were set but mean nothing to the method.
    """
    keys = (*method.defaults, *method.public.ignored)
    of_run = {"run": cfg.OUTPUT_DIR or "{run}", "seed": cfg.SEED, "dataset": cfg.DATASET.NAME}
    values = {key: fill(value_at(cfg, method.place(key)), of_run) for key in keys}
    places = _places()
    node = cfg.TRAINER.get(method.node, {})
    others = [key for key in node if key not in values]
    warn_ignored([
        place
        for place in (f"TRAINER.{method.node}.{key}" for key in others)
        if place in places and node[place.rpartition(".")[2]] != places[place]
    ])  # fmt: skip
    return values
