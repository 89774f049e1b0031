"""The settings of a run, as its checkpoints hold them: their comparison, and its errors."""

import ast
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import UserError

BEGUN = "begun.json"  # in the folder of a training: the code and settings that it was begun with
BY_PROCESS = (
    "if the files are the same, the code of the data set depends on the process (the order of a "
    "set, hash, a shuffle without a seed): sort names, and seed what is drawn"
)


def differing_keys(saved: Mapping[str, str], now: Mapping[str, str], method: Any = None) -> str:
    """Describe the keys whose values differ; a key that only one side has is of another checkout.

    None stands for the method's default, which the cfg of another checkout may spell out.
    """
    own = method.defaults if method else {}
    defaults = {method.place(key): as_text(default) for key, default in own.items()}
    saved, now = (
        {name: defaults.get(name, text) if text == "None" else text for name, text in s.items()}
        for s in (saved, now)
    )
    return ", ".join(
        f"{key} {saved[key]}, now {now[key]}"
        for key in sorted(saved.keys() & now.keys())
        if saved[key] != now[key]
    )


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


def begun_otherwise(folder: str | os.PathLike[str], what: str) -> UserError:
    """Return the error about a run that was begun with other settings, classes or images."""
    return UserError(
        f"The run in '{folder}' was begun with other {what}: give this one another --output-dir, "
        "or delete that folder to train again"
    )


def other_code(folder: str | os.PathLike[str], files: Iterable[str]) -> UserError:
    """Return the error about a run of other code, with both ways out."""
    return UserError(
        f"'{folder}' holds a run of other code ({', '.join(files)} has been edited since): add "
        "--redo to rename that folder and do the run anew, or --accept-edited (in another train.py "
        "TRAINER.ACCEPT_EDITED True) to keep it, which tables then say"
    )
