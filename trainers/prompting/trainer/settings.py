"""The settings that made a checkpoint, kept in it: a result belongs to its settings."""

import os
from collections.abc import Iterable, Mapping
from itertools import zip_longest

from yacs.config import CfgNode

from ..errors import UserError
from ..method import METHODS
from ..storage.checkpoints import broken_checkpoint
from ..storage.state import are_texts
from .by_run import leaves

# What cannot change the outcome of a run, as far as it is not a matter of rounding.
FREE = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "VERSION", "TEST.", "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ", "DATALOADER.NUM_WORKERS", "DATALOADER.TEST.", "DATALOADER.TRAIN_U.",
    "TRAINER.MEMORY_BUDGET", "TRAINER.COMPILE", "TRAINER.DETERMINISTIC", "TRAINER.PLUGINS",
    "TRAINER.PER_DATASET",
)  # fmt: skip


def settings_of(cfg: CfgNode, method) -> dict[str, str]:
    """Every setting that can change the outcome of a run, by its dotted key, as text.

    Nodes of other methods are left out, but for keys that this one has there.
    """
    own = _own(method)
    others = {m.node for m in METHODS.values()} - {method.node}
    left_out = FREE + tuple(f"TRAINER.{node}." for node in others)
    return {
        key: _text(key, value)
        for key, value in leaves(cfg)
        if key in own
        or not (key + ".").startswith(tuple(name.rstrip(".") + "." for name in left_out))
    }


def _text(key: str, value) -> str:
    if key == "DATASET.ROOT":  # without one the embedded data have a place of their own
        return os.path.realpath(os.path.expanduser(value)) if value else ""
    if key == "MODEL.BACKBONE.NAME":  # a file may lie elsewhere; open_clip's tags need the rest
        arch = value.partition("/")[0] + "/" if value.startswith("open_clip:") else ""
        return arch + os.path.basename(value)
    return repr(list(value) if isinstance(value, (list, tuple)) else value)


def check_resumed(
    checkpoint: Mapping,
    now: Mapping[str, str],
    classnames: list[str],
    folder: str,
    wanted: Iterable[str],
    method,
) -> None:
    """Refuse to go on with a run under other settings than it began with, or without its state.

    A checkpoint that does not tell its settings is of another code, and may lack more; else it must
    have all parts of the state that are wanted.

    Raises:
        UserError: names the keys or classes that differ, or the parts that are missing.
    """
    saved, epoch = checkpoint.get("settings"), checkpoint["epoch"]
    if saved is None:
        print(f"The checkpoint in '{folder}' does not say what settings made it: take care")
        return
    if not is_settings(saved):
        raise broken_checkpoint(folder, epoch, "does not tell its settings")
    if lacking := sorted(set(wanted) - checkpoint.keys()):
        raise broken_checkpoint(folder, epoch, f"lacks {', '.join(lacking)}")
    begun, differing = checkpoint["classnames"], _differing(saved, now, method)
    if not are_texts(begun):
        raise broken_checkpoint(folder, epoch, "does not tell its classes")
    what = f"settings ({differing})"
    if not differing and list(begun) != classnames:
        pairs = zip_longest(begun, classnames, fillvalue="none")
        k, (then, found) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        what = f"classes ({len(begun)}, now {len(classnames)}; class {k} '{then}', now '{found}')"
    elif not differing:
        return
    raise UserError(
        f"The run in '{folder}' was begun with other {what}: give this one another --output-dir, "
        "or delete that folder to train again"
    )


def check_loaded(saved: Mapping[str, str] | None, now: Mapping[str, str], method) -> None:
    """Refuse to evaluate prompts as another point in the space than they were trained at.

    Raises:
        UserError: names the keys of the method's node that differ, or the backbone; `saved` are
            no settings.
    """
    if saved is None:
        print("The checkpoint does not say what settings made it: those of this call are taken")
        return
    if not is_settings(saved):
        raise UserError(
            "The checkpoint does not tell the settings that made it, where they belong: take "
            "another --load-epoch, or train again"
        )
    free = (*method.training_only, "PREC")
    names = [name for name, key in _own(method).items() if key not in free]
    names.append("MODEL.BACKBONE.NAME")
    then, here = ({k: s[k] for k in names if k in s} for s in (saved, now))
    differing = _differing(then, here, method)
    if differing:
        raise UserError(
            f"The prompts were trained with other settings ({differing}): evaluate them with those"
        )


def is_settings(saved) -> bool:
    """Whether a value is what `settings_of` gives."""
    return isinstance(saved, Mapping) and all(
        isinstance(text, str) for pair in saved.items() for text in pair
    )


def _own(method) -> dict[str, str]:
    """Dotted key -> key of a method's node."""
    return {method.place(key): key for key in method.defaults}


def _differing(saved: Mapping[str, str], now: Mapping[str, str], method) -> str:
    """The keys that both have, but not alike; a key that only one has is of another version.

    None stands for the default of the method, which the cfg of another checkout may name.
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
