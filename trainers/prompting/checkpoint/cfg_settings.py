"""The settings of a run as texts, as its checkpoints hold them, and back."""

import os
from collections.abc import Mapping
from typing import Any

from ..embedded import file_sha256
from ..errors import UserError
from ..storage.records import sentences_text
from .saved import UNKNOWN
from .settings import as_text, leaves, literal

# Settings that cannot change the outcome of a run, except by rounding.
FREE = (
    "OUTPUT_DIR", "RESUME", "DATASET.METHODS", "VERBOSE", "USE_CUDA", "VERSION", "TEST.",
    "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ", "DATALOADER.NUM_WORKERS", "DATALOADER.TEST.",
    "DATALOADER.TRAIN_U.", "TRAINER.MEMORY_BUDGET", "TRAINER.DETERMINISTIC",
    "TRAINER.PLUGINS", "TRAINER.PER_DATASET", "TRAINER.ACCEPT_EDITED", "TRAINER.UNREAD",
)  # fmt: skip
# Beginnings of settings that matter to a training only, and are recorded as it had them.
OF_TRAINING = (
    "DATASET.NUM_SHOTS", "DATASET.LABEL_NOISE", "DATASET.IMBALANCE", "OPTIM.", "MODEL.INIT_WEIGHTS",
    "TRAIN.ATTACK",
)  # fmt: skip


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


def value_of(text: str, default: object) -> object:
    """Return the value of a setting, of the type of its default; a default of None allows any.

    Raises:
        ValueError: it has another type.
    """
    value = literal(text)
    if default is None or (value is None and not isinstance(default, Mapping)):
        return value
    if isinstance(default, str):
        return value if isinstance(value, str) else text
    kinds = {list: (list, tuple), tuple: (list, tuple), float: (int, float)}
    kind = kinds.get(type(default), type(default))
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is not a {kind}")
    return value


def as_trained(cfg: Any, saved: Mapping[str, str] | None, method) -> Any:
    """Return the cfg for the record of an evaluation: what concerns the training is that of it.

    If the checkpoint has no settings (`saved` is None), they are UNKNOWN. The seed of a method that
    adapts while testing stays that of the evaluation.

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
