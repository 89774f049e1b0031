"""The settings stored in a checkpoint, and their comparison with those of the present run."""

import ast
import os
from collections.abc import Iterable, Mapping
from itertools import zip_longest

from yacs.config import CfgNode

from ..backbones import weights_sha256
from ..embedded import file_sha256, other_weights
from ..errors import UserError
from ..method import METHODS
from ..storage.checkpoints import broken_checkpoint
from ..storage.state import are_texts, is_settings
from ..storage.trained import UNKNOWN
from .by_run import leaves

# Settings that cannot change the outcome of a run, except by rounding.
FREE = (
    "OUTPUT_DIR",
    "RESUME",
    "DATASET.METHODS",
    "VERBOSE",
    "USE_CUDA",
    "VERSION",
    "TEST.",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST.",
    "DATALOADER.TRAIN_U.",
    "TRAINER.MEMORY_BUDGET",
    "TRAINER.COMPILE",
    "TRAINER.DETERMINISTIC",
    "TRAINER.PLUGINS",
    "TRAINER.PER_DATASET",
    "TRAINER.UNREAD",
)
# Beginnings of settings that matter to a training only, and are recorded as it had them.
OF_TRAINING = (
    "DATASET.NUM_SHOTS", "DATASET.LABEL_NOISE", "DATASET.IMBALANCE", "OPTIM.", "MODEL.INIT_WEIGHTS",
)  # fmt: skip


def settings_of(cfg: CfgNode, method=None) -> dict[str, str]:
    """Return every setting that can change the outcome of a run: dotted key -> text.

    Nodes of other methods are left out, except for keys that this method reads there. A trainer of
    other code, which has no `method`, may read all of them.
    """
    keys = _own(method)
    nodes = {m.node for m in METHODS.values()} - {method.node} if method else set()
    left_out = FREE + tuple(f"TRAINER.{node}." for node in nodes)
    return {
        key: _text(key, value)
        for key, value in leaves(cfg)
        if key in keys
        or not (key + ".").startswith(tuple(name.rstrip(".") + "." for name in left_out))
    }


def _text(key: str, value) -> str:
    if key == "DATASET.ROOT":  # empty for the embedded data, which lie elsewhere
        return os.path.realpath(os.path.expanduser(value)) if value else ""
    if key == "DATASET.FEATURES":  # what it holds counts, wherever it lies
        return file_sha256(value) if value else ""
    if key == "MODEL.BACKBONE.NAME":  # a file may lie elsewhere; open_clip's tags need the rest
        arch = value.partition("/")[0] + "/" if value.startswith("open_clip:") else ""
        return arch + os.path.basename(value)
    return repr(list(value) if isinstance(value, (list, tuple)) else value)


def value_of(text: str, default: object) -> object:
    """Return the value of a setting, of the type of its default; a default of None allows any.

    Raises:
        ValueError: it has another type.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = text  # a name or a path, stored without quotes
    if default is None or (value is None and not isinstance(default, CfgNode)):
        return value
    if isinstance(default, str):
        return value if isinstance(value, str) else text
    kinds = {list: (list, tuple), tuple: (list, tuple), float: (int, float)}
    kind = kinds.get(type(default), type(default))
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is not a {kind}")
    return value


def as_trained(cfg: CfgNode, saved: Mapping[str, str] | None, method) -> CfgNode:
    """Return the cfg for the record of an evaluation: what concerns the training is that of it.

    Args:
        cfg: of the evaluation.
        saved: the settings in the checkpoint; None if it has none: they are then UNKNOWN.
        method: if it adapts while testing, the seed stays that of the evaluation.

    Raises:
        UserError: a setting of the checkpoint is impossible.
    """
    keys = {method.place(key) for key in method.training_only} - {"SEED"}
    keys |= set() if method.adapts else {"SEED"}
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in [*leaves(cfg)]:
        if key not in keys and not key.startswith(OF_TRAINING):
            continue
        text = (saved or {}).get(key, _text(key, value))
        try:
            then = value_of(text, value) if saved or key == "MODEL.INIT_WEIGHTS" else UNKNOWN
        except ValueError as error:
            raise UserError(
                f"The checkpoint has '{text:.50}' for the setting {key}, which is impossible: take "
                "another checkpoint, or train again"
            ) from error
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        node[name] = then
    cfg.freeze()
    return cfg


def check_resumed(
    checkpoint: Mapping,
    now: Mapping[str, str],
    classnames: list[str],
    folder: str,
    wanted: Iterable[str],
    method,
) -> None:
    """Refuse to resume a run with settings other than it began with, or without its full state.

    A checkpoint without settings was written by other code: it is accepted, and may lack parts of
    the state. Any other checkpoint must have all parts in `wanted`.

    Raises:
        UserError: names the keys or classes that differ, or the parts that are missing.
    """
    saved, epoch = checkpoint.get("settings"), checkpoint["epoch"]
    if saved is None:
        no_settings(folder)
        return
    if not is_settings(saved):
        raise broken_checkpoint(folder, epoch, "has no valid settings")
    if lacking := sorted(set(wanted) - checkpoint.keys()):
        raise broken_checkpoint(folder, epoch, f"lacks {', '.join(lacking)}")
    names, differing = checkpoint["classnames"], differing_keys(saved, now, method)
    if not are_texts(names):
        raise broken_checkpoint(folder, epoch, "has no valid class names")
    what = f"settings ({differing})"
    if not differing and list(names) != classnames:
        pairs = zip_longest(names, classnames, fillvalue="none")
        k, (name, other) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        what = f"classes ({len(names)}, now {len(classnames)}; class {k} '{name}', now '{other}')"
    elif not differing:
        return
    raise begun_otherwise(folder, what)


def no_settings(folder: str | os.PathLike[str]) -> None:
    """Say that a checkpoint does not name the settings of its training."""
    print(f"The checkpoint in '{folder}' has no settings: check that they agree with this run")


def begun_otherwise(folder: str | os.PathLike[str], what: str) -> UserError:
    """Return the error about a run that was begun with other settings, classes or images."""
    return UserError(
        f"The run in '{folder}' was begun with other {what}: give this one another --output-dir, "
        "or delete that folder to train again"
    )


def check_loaded(saved: Mapping[str, str] | None, now: Mapping[str, str], method) -> None:
    """Refuse to evaluate prompts with another method setting, backbone or draft than in training.

    Raises:
        UserError: the backbone, INPUT.DRAFT or keys of the method's node differ (it names them), or
            `saved` are not settings.
    """
    if saved is None:
        print("The checkpoint has no settings: those of this call are used")
        return
    if not is_settings(saved):
        raise UserError(
            "The checkpoint has no valid settings in its entry 'settings': take another "
            "--load-epoch, or train again"
        )
    free = (*method.training_only, *method.test_keys, "PREC")
    names = [name for name, key in _own(method).items() if key not in free]
    names += ["MODEL.BACKBONE.NAME", "INPUT.DRAFT"]
    theirs, ours = ({k: s[k] for k in names if k in s} for s in (saved, now))
    differing = differing_keys(theirs, ours, method)
    if differing:
        raise UserError(
            f"The prompts were trained with other settings ({differing}): set these as in the "
            "training"
        )


def check_weights(then: str | None, name: str) -> None:
    """Refuse weights other than those that the prompts were trained with.

    Args:
        then: SHA-256 of the weights, from the checkpoint; None if it has none.
        name: of the backbone.

    Raises:
        UserError: the name stands for other weights now, or `then` is not a text.
    """
    if not isinstance(then, str | None):
        raise UserError(
            f"The checkpoint has {then!r:.40} for the SHA-256 of its backbone: take another "
            "--load-epoch, or train again"
        )
    if why := other_weights(name, then, weights_sha256(name)):
        raise UserError(
            f"The prompts were trained with {why}: give --backbone the file of those weights, or "
            "train again"
        )


def _own(method) -> dict[str, str]:
    """Map the dotted keys of a method to the keys of its node; none without a method."""
    return {method.place(key): key for key in method.defaults} if method else {}


def differing_keys(saved: Mapping[str, str], now: Mapping[str, str], method=None) -> str:
    """Describe the keys whose values differ; a key that only one side has is of another checkout.

    None stands for the method's default, which the cfg of another checkout may spell out.
    """
    defaults = {name: _text(name, method.defaults[key]) for name, key in _own(method).items()}
    saved, now = (
        {name: defaults.get(name, text) if text == "None" else text for name, text in s.items()}
        for s in (saved, now)
    )
    return ", ".join(
        f"{key} {saved[key]}, now {now[key]}"
        for key in sorted(saved.keys() & now.keys())
        if saved[key] != now[key]
    )
