"""`launch.json`: what a launcher started in a folder; reports read it, not the folder's name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.configs import read_pairs
from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_json, write_whole

from . import PROTOCOLS
from .base import Run

LAUNCH, CONSOLE = "launch.json", "console.txt"  # of a launcher, in the folder of a run
NAMES = ("protocol", "part", "source", "dataset", "trainer", "config", "subsample")
NUMBERS = ("seed", "shots")
PAIRS = ("keys", "shared")  # KEY VALUE pairs of this run (--vary), and of all runs of the command


@dataclass(frozen=True)
class Launch:
    """A run as it was started, with what it shares with the other runs of its command."""

    run: Run
    backbone: str | None  # of --backbone
    shared: dict[str, str]  # KEY VALUE pairs


def write_launch(run: Run, backbone: str | None, opts: tuple[str, ...]) -> None:
    """Write what the run is into its folder; raises OSError."""
    content: dict[str, Any] = {name: getattr(run, name) for name in (*NAMES, *NUMBERS)}
    content |= {"protocol": run.protocol.name, "keys": read_pairs(run.opts)}
    content |= {"config_file": str(run.config_file), "backbone": backbone}
    content |= {"shared": read_pairs(opts)}
    write_whole(run.folder / LAUNCH, json.dumps(content, indent=1) + "\n")


def read_launch(folder: Path) -> Launch | None:
    """Return what was started in a folder; None if nothing was."""
    path, remedy = folder / LAUNCH, "run again, or remove it"
    try:
        content = read_json(path, remedy)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    backbone, file = content.get("backbone"), content.get("config_file")
    holds = {key: _is_name(content.get(key)) for key in NAMES}
    holds |= {key: type(content.get(key)) is int for key in NUMBERS}
    holds |= {key: _are_texts(content.get(key)) for key in PAIRS}
    holds |= {"config_file": isinstance(file, str), "backbone": isinstance(backbone, str | None)}
    for key in (key for key, fits in holds.items() if not fits):
        raise UserError(f"'{path}' does not say which run it is of (`{key}`): {remedy}")
    names = {key: content[key] for key in (*NAMES, *NUMBERS)}
    protocol = PROTOCOLS.get(names["protocol"])
    if protocol is None or names["part"] not in protocol.parts:
        why = f"is of a protocol that is not known here, {names['protocol']}"
        raise UserError(f"'{path}' {why}: {remedy}")
    names |= {"protocol": protocol, "eval_only": protocol.parts[names["part"]].eval_only}
    opts = tuple(word for pair in content["keys"].items() for word in pair)
    run = Run(**names, folder=folder, config_file=Path(str(file)), opts=opts)
    return Launch(run, backbone, content["shared"])


def _is_name(value: object) -> bool:
    """Return True for a text that can be the name of a folder, or is empty."""
    return isinstance(value, str) and not (value in (".", "..") or "/" in value or "\0" in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
