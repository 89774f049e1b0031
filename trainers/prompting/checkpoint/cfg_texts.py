"""What a checkpoint says of its run, put into a cfg."""

import ast
import os
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import need, printable

BY_PROCESS = (
    "if the files are the same, the code of the data set depends on the process (the order of a "
    "set, hash, a shuffle without a seed): sort names, and seed what is drawn"
)


def literal(text: str) -> Any:
    """Return the value of a setting; a name or a path, stored without quotes, stays a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def no_settings(folder: str | os.PathLike[str]) -> None:
    """Say that a checkpoint does not name the settings of its training."""
    print(f"The checkpoint in '{folder}' has no settings: check that they agree with this run")


def note_edited(files: Collection[str]) -> None:
    """Say that files of the code were edited since a training that is resumed began, if any."""
    if files:
        print(f"The code has changed since this training began: {', '.join(map(printable, files))}")


def put(cfg: Any, key: str, value: Any, place: str) -> None:
    """Set a key of a cfg, by its dotted name, to its value in the run of a checkpoint at a place.

    The value must be of the type of that before, which allows any if it is None or missing.
    """
    node, name = _node_of(cfg, key)
    default = None if node is None else node.get(name)
    free = default is None or (value is None and not isinstance(default, Mapping))
    kinds = {list: (list, tuple), tuple: (list, tuple), float: (int, float)}
    need(
        node is not None and (free or isinstance(value, kinds.get(type(default), type(default)))),
        f"The run of '{place}' has {value!r:.50} for the setting {key:.100}, which is impossible: "
        "take another checkpoint, or train again",
    )
    node[name] = tuple(value) if isinstance(default, tuple) else value


def _node_of(cfg: Any, key: str) -> tuple[Any, str]:
    """Return the node of a key, or None if a value is above it, and the last part of the key."""
    *above, name = key.split(".")
    for part in above:
        cfg = cfg.setdefault(part, type(cfg)()) if isinstance(cfg, dict) else None
    return (cfg if isinstance(cfg, dict) else None), name
