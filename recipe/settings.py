"""Builds the cfg of a run from defaults, plug-ins, config files, flags and KEY VALUE pairs."""

import copy
import re
from collections.abc import Container, Iterable, Mapping

import yaml
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from datasets import ImageDataset, noise
from trainers.prompting import extend_cfg
from trainers.prompting.building.by_run import by_dataset, check_sections, for_run, plain_key
from trainers.prompting.building.keys import check_keys
from trainers.prompting.checkpoint.identity import leaves
from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.checkpoint.several import refuse_several
from trainers.prompting.errors import UserError, check_name, need
from trainers.prompting.method import METHODS
from trainers.prompting.plugins import extenders, load_plugins
from trainers.prompting.record.hashes import from_anywhere
from trainers.prompting.storage.features import read_header

from .configs import find, merge

PLUGINS = "TRAINER.PLUGINS"
COMMAND_LINE = "the command line"  # the source of KEY VALUE pairs
BASE = "the base of "  # begins the name of a source: keys that a config file has from its base
# Keys that a trainer of other code does not read.
OF_METHODS = ("DATASET.FEATURES", *(x for x, key in KEYS.items() if key.read_by == "methods"))


def build_cfg(
    sources: Iterable[tuple[str, Mapping[str, object]]],
    plugins: Iterable[str] = (),
    shared: bool = False,
):
    """Build a cfg from the defaults of Dassl and of all methods, changed by each source in turn.

    Args:
        sources: pairs of a name, for messages, and values by dotted key. Within a source, values
            for some runs only (`by_run`) replace the others.
        plugins: modules or files with methods, besides those that a source names.
        shared: True if the command line may set keys that only other methods read.
    """
    settings = [(source, dict(keys)) for source, keys in sources]
    plugins = list(plugins)
    for _, keys in settings:
        plugins += _names(keys.pop(PLUGINS, []))
    plugins = list(dict.fromkeys(map(from_anywhere, plugins)))
    load_plugins(plugins)  # before the cfg is made: they add nodes to it
    cfg = _defaults()
    cfg.TRAINER.PLUGINS = plugins
    given = {key: value for _, keys in settings for key, value in keys.items()}
    names = ("NAME", "NUM_SHOTS", "SUBSAMPLE_CLASSES")
    run = [str(given.get(f"DATASET.{name}", cfg.DATASET[name])) for name in names]
    for source, keys in settings:
        check_sections(keys, source, DATASET_REGISTRY.registered_names())
        for key in keys:  # those for other runs, too
            find(cfg, plain_key(key), source)
        merge(cfg, for_run(keys, *run), source)
    if cfg.DATASET.FEATURES:
        cfg.MODEL.BACKBONE.NAME = read_header(cfg.DATASET.FEATURES)["clip"]
    check_name("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    for name in (cfg.DATASET.NAME, *cfg.TEST.OOD):
        check_name("data set", str(name), DATASET_REGISTRY.registered_names())
    check_keys(cfg)
    read = ["FEATURES"] * bool(cfg.DATASET.FEATURES)
    read += ["KNOWN"] * (KEYS["DATASET.KNOWN"].default != cfg.DATASET.KNOWN)
    read += ["LABEL_NOISE or IMBALANCE"] * noise.changes(noise.keys_of(cfg.DATASET))
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    need(
        not read or issubclass(kind, ImageDataset),
        f"DATASET.{' and '.join(read)} is set, but the data set {cfg.DATASET.NAME} does not read "
        "it: derive its class from datasets.ImageDataset, or leave it out",
    )
    varied = by_dataset(keys for _, keys in settings)
    method = METHODS.get(cfg.TRAINER.NAME)
    if method is None:
        check_other_trainer(cfg)
        ours = isinstance(kind, type) and issubclass(kind, ImageDataset)
        if ours and kind.kind(cfg.DATASET).several:
            refuse_several(f"{cfg.TRAINER.NAME}, a trainer of other code,")
    else:  # OPTIM does not count, although some methods read it
        varied &= {
            place for place in map(method.place, method.defaults) if not place.startswith("OPTIM")
        }
        cfg.TRAINER.PER_DATASET = sorted(varied)
        of_run = {source: for_run(keys, *run) for source, keys in settings}
        wrong = unread(method, of_run.pop(COMMAND_LINE, {}))
        if wrong and not shared:
            raise not_read(wrong[0], method)
        of_files = [
            key
            for source, keys in of_run.items()
            if not source.startswith(BASE)
            for key in unread(method, keys)
        ]
        cfg.TRAINER.UNREAD = sorted({*of_files})
    return cfg


def unread(method, keys: Iterable[str]) -> list[str]:
    """Return the dotted keys of nodes below TRAINER that a method does not read."""
    places = _places(method)
    return [key for key in keys if re.match(r"TRAINER\.\w+\.", key) and key not in places]


def not_read(key: str, method) -> UserError:
    """Return the error about a key of the command line that a method does not read."""
    name = key.rpartition(".")[2]
    hint = f"set {method.place(name)}, or leave" if name in method.defaults else "leave"
    return UserError(
        f"The command line sets {key}, which {method.__name__} does not read (its node is TRAINER."
        f"{method.node}): {hint} it out"
    )


def unread_note(cfg) -> str:
    """Return the sentence on keys of config files that the method does not read."""
    return (
        f"warning: config files set {', '.join(cfg.TRAINER.UNREAD)}, which {cfg.TRAINER.NAME} does "
        f"not read: its node is TRAINER.{METHODS[cfg.TRAINER.NAME].node}"
    )


def check_other_trainer(cfg) -> None:
    """Raise a UserError if a key is set that means nothing to a trainer of other code."""
    now, usual = (dict(leaves(tree)) for tree in (cfg, _defaults()))
    for key in OF_METHODS:
        if now[key] != usual[key]:
            raise UserError(
                f"{key} is {now[key]}, but only methods of this project read it, and "
                f"{cfg.TRAINER.NAME} is a trainer of other code: leave it out"
            )


def _defaults():
    cfg = get_cfg_default()
    for extend in extenders:  # first: keys that are there stay as they are
        extend(cfg)
    extend_cfg(cfg)
    here = {x: key.default for x, key in KEYS.items() if key.read_by == "here"}
    cfg.DATASET.update({x.partition(".")[2]: copy.copy(value) for x, value in here.items()})
    return cfg


def changed_settings(cfg) -> str:
    """Return the settings of a cfg that differ from the defaults, one in a line."""
    defaults = dict(leaves(_defaults()))
    return "\n".join(
        f"{key}: {value}"
        for key, value in leaves(_own(cfg))
        if key not in defaults or value != defaults[key]
    )


def cfg_text(cfg) -> str:
    """Return the cfg as text, without keys that only other methods read."""
    return str(_own(cfg))


def effective(cfg) -> str:
    """Return the settings that make a difference to the run's method, as text.

    Without OPTIM where nothing is trained, and without the output folder.
    """
    method, places = METHODS.get(cfg.TRAINER.NAME), {"OUTPUT_DIR"}
    if method is not None and not method.trains:
        places |= {f"OPTIM.{key}" for key in cfg.OPTIM} - _places(method)
    return str(_without(_own(cfg), places))


def _own(cfg):
    method = METHODS.get(cfg.TRAINER.NAME)
    if method is None:  # not a method of this project: its keys are not known
        return cfg
    general = {*dict(leaves(get_cfg_default())), "DATASET.SUBSAMPLE_CLASSES"}  # read by all
    of_methods = {place for kind in METHODS.values() for place in _places(kind)}
    return _without(cfg, of_methods - _places(method) - general)


def _places(method) -> set[str]:
    """Return the places of a method's keys in a cfg; some are in the node of another method."""
    return {method.place(key) for key in (*method.defaults, *method.public.ignored)}


def _without(node, places: Container[str], prefix: str = "") -> CfgNode:
    """Return a node without the keys at some places, and without nodes that have only such keys."""
    kept = CfgNode()
    for key, value in node.items():
        place = f"{prefix}{key}"
        if isinstance(value, CfgNode):
            below = _without(value, places, f"{place}.")
            if below or not value:
                kept[key] = below
        elif place not in places:
            kept[key] = value
    return kept


def _names(value: object) -> list[str]:
    """Return a value as a list of names: it is a list or one name, on a command line as text."""
    value = yaml.safe_load(value) if isinstance(value, str) else value
    names = value if isinstance(value, (list, tuple)) else [value]
    return [str(name) for name in names]
