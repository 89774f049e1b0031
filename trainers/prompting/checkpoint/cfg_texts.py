"""The settings of a run as texts, as its checkpoints hold them, and what differs between two."""

import ast
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..embedded import file_sha256
from ..errors import UserError, need, printable
from ..storage.run_record import sentences_text

UNKNOWN = "unknown"  # of public checkpoints, which do not say it
MOST = 8  # differences in a message
DIVIDED = "division"  # in a fingerprint that has the parts of the images
# Beginnings of names -> the name that a fingerprint has if it has all of them.
WHOLE = {"class": "classes", "images": DIVIDED}
# First words of names that are no settings -> what they are.
KINDS = {
    "classes": "classes",
    "class": "classes",
    "images": "images",
    "teacher": "prompts of its teacher",
}
# Settings that cannot change the outcome of a run, except by rounding.
FREE = (
    "OUTPUT_DIR", "RESUME", "DATASET.METHODS", "VERBOSE", "USE_CUDA", "VERSION", "TEST.",
    "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ", "DATALOADER.NUM_WORKERS", "DATALOADER.TEST.",
    "DATALOADER.TRAIN_U.", "TRAINER.MEMORY_BUDGET", "TRAINER.DETERMINISTIC",
    "TRAINER.PLUGINS", "TRAINER.PER_DATASET", "TRAINER.UNREAD",
)  # fmt: skip
# Beginnings of settings that matter to a training only, and are recorded as it had them.
OF_TRAINING = (
    "DATASET.NUM_SHOTS", "DATASET.LABEL_NOISE", "DATASET.IMBALANCE", "OPTIM.", "MODEL.INIT_WEIGHTS",
    "TRAIN.ATTACK",
)  # fmt: skip
BY_PROCESS = (
    "if the files are the same, the code of the data set depends on the process (the order of a "
    "set, hash, a shuffle without a seed): sort names, and seed what is drawn"
)


def differing(then: Mapping[str, str], now: Mapping[str, str], method: Any = None) -> str:
    """Return what differs between two fingerprints (`Saved.fingerprint`), or is empty.

    What only one side has is of another checkout, except for classes and images. None stands for
    the method's default, which the cfg of another checkout may spell out.

    Examples:
        >>> differing({"SEED": "1", "class 0": "'cat'"}, {"SEED": "2", "class 0": "'dog'"})
        "settings and classes (SEED 1, now 2; class 0 'cat', now 'dog')"
    """
    own = method.defaults if method else {}
    defaults = {method.place(key): as_text(default) for key, default in own.items()}
    then, now = (
        {name: defaults.get(name, text) if text == "None" else text for name, text in texts.items()}
        for texts in (then, now)
    )
    both = then.keys() & now.keys()
    names = [x for x in {**then, **now} if x in both or WHOLE.get(x.partition(" ")[0]) in both]
    texts = {name: (then.get(name, "none"), now.get(name, "none")) for name in names}
    found = [f"{name} {x}, now {y}" for name, (x, y) in texts.items() if x != y]
    kinds = dict.fromkeys(KINDS.get(text.partition(" ")[0], "settings") for text in found)
    more = [f"and {len(found) - MOST:,} more"] * (len(found) > MOST)
    return f"{' and '.join(kinds)} ({'; '.join(found[:MOST] + more)})" if found else ""


def leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key and the value of every entry of a config."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def literal(text: str) -> Any:
    """Return the value of a setting; a name or a path, stored without quotes, stays a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def as_text(value: Any) -> str:
    """Return the value of a setting as settings have it."""
    return repr(list(value) if isinstance(value, (list, tuple)) else value)


def no_settings(folder: str | os.PathLike[str]) -> None:
    """Say that a checkpoint does not name the settings of its training."""
    print(f"The checkpoint in '{folder}' has no settings: check that they agree with this run")


def note_edited(files: Collection[str]) -> None:
    """Say that files of the code were edited since a training that is resumed began, if any."""
    if files:
        print(f"The code has changed since this training began: {', '.join(map(printable, files))}")


def begun_otherwise(folder: str | os.PathLike[str], what: str) -> UserError:
    """Return the error about a run that was begun with other settings, classes or images."""
    return UserError(
        f"The run in '{folder}' was begun with other {what}: go back to those, give this one "
        "another --output-dir, or delete that folder to train again"
    )


def settings_of(cfg: Any, method=None) -> dict[str, str]:
    """Return every setting that can change the outcome of a run: dotted key -> text.

    Nodes of other methods are left out, except for keys that this method reads there. A trainer of
    other code, which has no `method`, may read all of them.
    """
    keys = {method.place(key) for key in method.defaults} if method else ()
    nodes = method.other_nodes() if method else set()
    left_out = tuple(name.rstrip(".") + "." for name in (*FREE, *(f"TRAINER.{n}" for n in nodes)))
    return {
        key: _text(key, value)
        for key, value in leaves(cfg)
        if key in keys or not (key + ".").startswith(left_out)
    }


def _text(key: str, value) -> str:
    if key == "DATASET.ROOT":  # empty for the embedded data, which lie elsewhere
        return os.path.realpath(os.path.expanduser(value)) if value else ""
    if key == "DATASET.SENTENCES":
        return sentences_text(value)
    if key == "DATASET.FEATURES":  # what it holds counts, wherever it lies
        return file_sha256(value) if value else ""
    if key == "MODEL.BACKBONE.NAME":  # a file may lie elsewhere; open_clip's tags need the rest
        arch = value.partition("/")[0] + "/" if value.startswith(("open_clip:", "hf-hub:")) else ""
        return arch + os.path.basename(value)
    return as_text(value)


def put(cfg: Any, key: str, text: str, place: str) -> None:
    """Set a key of a cfg, by its dotted name, to a setting of the checkpoint at a place.

    The value must be of the type of that before, which allows any if it is None or missing.
    """
    node, name = _node_of(cfg, key)
    value, default = literal(text), None if node is None else node.get(name)
    free = default is None or (value is None and not isinstance(default, Mapping))
    if isinstance(default, str) and not free and not isinstance(value, str):
        value = text
    kinds = {list: (list, tuple), tuple: (list, tuple), float: (int, float)}
    need(
        node is not None and (free or isinstance(value, kinds.get(type(default), type(default)))),
        f"The checkpoint '{place}' has '{text:.50}' for the setting {key:.100}, which is "
        "impossible: take another checkpoint, or train again",
    )
    node[name] = value


def _node_of(cfg: Any, key: str) -> tuple[Any, str]:
    """Return the node of a key, or None if a value is above it, and the last part of the key."""
    *above, name = key.split(".")
    for part in above:
        cfg = cfg.setdefault(part, type(cfg)()) if isinstance(cfg, dict) else None
    return (cfg if isinstance(cfg, dict) else None), name


def as_trained(
    cfg: Any, saved: Mapping[str, str] | None, method: Any, place: str, adapts: bool
) -> Any:
    """Return the cfg for the record of an evaluation: what concerns the training is that of it.

    If the checkpoint, at a place, has no settings (`saved` is None), they are UNKNOWN. The seed of
    a method that `adapts` while testing stays that of the evaluation.
    """
    keys = {method.place(key) for key in method.training_only} - {"SEED"}
    keys |= set() if adapts else {"SEED"}
    cfg = cfg.clone()
    cfg.defrost()
    for key in [key for key, _ in leaves(cfg) if key in keys or key.startswith(OF_TRAINING)]:
        if saved and key in saved:
            put(cfg, key, saved[key], place)
        elif not saved and key != "MODEL.INIT_WEIGHTS":
            node, name = _node_of(cfg, key)
            node[name] = UNKNOWN
    cfg.freeze()
    return cfg
