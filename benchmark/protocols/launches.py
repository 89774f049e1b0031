"""`launch.json`: what a launcher started in a folder; reports read it, not the folder's name."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.configs import read_pairs
from trainers.prompting.errors import need
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
    """Return what was started in a folder; None if nothing was.

    Raises:
        UserError: its launch.json cannot be read, or is of something else.
    """
    path = folder / LAUNCH
    if not path.exists():
        return None
    remedy = "run again, or remove it"
    content = read_json(path, remedy)
    backbone, file = content.get("backbone"), content.get("config_file")
    holds = {key: _is_name(content.get(key)) for key in NAMES}
    holds |= {key: type(content.get(key)) is int for key in NUMBERS}
    holds |= {key: _are_texts(content.get(key)) for key in PAIRS}
    holds |= {"config_file": isinstance(file, str), "backbone": isinstance(backbone, str | None)}
    for key, fits in holds.items():
        need(fits, f"'{path}' does not say which run it is of (`{key}`): {remedy}")
    names = {key: content[key] for key in (*NAMES, *NUMBERS)}
    protocol = PROTOCOLS.get(names["protocol"])
    known = protocol is not None and names["part"] in protocol.parts
    need(known, f"'{path}' is of a protocol that is not known here, {names['protocol']}: {remedy}")
    assert protocol is not None
    run = Run(**names | {"protocol": protocol}, folder=folder, config_file=Path(str(file)))
    opts = tuple(word for pair in content["keys"].items() for word in pair)
    eval_only = protocol.parts[run.part].eval_only
    return Launch(replace(run, opts=opts, eval_only=eval_only), backbone, content["shared"])


def _is_name(value: object) -> bool:
    """Return True for a text that can be the name of a folder, or is empty."""
    return isinstance(value, str) and not re.search(r"[/\x00]|^\.\.?$", value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
