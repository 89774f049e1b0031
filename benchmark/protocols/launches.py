"""Writes and reads what a launcher started in a folder: `launch` in its `run.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.configs import read_pairs
from trainers.prompting.checkpoint.identity import RUN, read_run, write_run
from trainers.prompting.errors import UserError, in_short

from . import PROTOCOLS
from .base import Run

CONSOLE = "console.txt"  # of a launcher, in the folder of a run
NAMES = ("protocol", "part", "source", "dataset", "trainer", "config", "subsample")
NUMBERS = ("seed", "shots")
REMEDY = "run again, or remove it"


@dataclass(frozen=True)
class Launch:
    """A run as it was started, with what it shares with the other runs of its command."""

    run: Run
    backbone: str | None  # of --backbone
    shared: dict[str, str]  # KEY VALUE pairs


def write_launch(run: Run, backbone: str | None, opts: tuple[str, ...], **parts: Any) -> None:
    """Write what the run is into its folder; raises OSError.

    `keys` are KEY VALUE pairs of this run (--vary), `shared` those of all runs of the command.
    `parts` are further ones of `run.json`.
    """
    content: dict[str, Any] = {name: getattr(run, name) for name in (*NAMES, *NUMBERS)}
    content |= {"protocol": run.protocol.name, "keys": read_pairs(run.opts)}
    content |= {"config_file": str(run.config_file), "backbone": backbone}
    content |= {"shared": read_pairs(opts)}
    write_run(run.folder, launch=content, **parts)


def read_launch(folder: Path) -> Launch | None:
    """Return what was started in a folder; None if nothing was by a launcher."""
    whole, path = read_run(folder, REMEDY), folder / RUN
    if whole is None or ("run" in whole and "launch" not in whole):  # of train.py itself
        return None
    try:
        content = whole["launch"]
        names: dict[str, Any] = {key: _name(content[key]) for key in NAMES}
        names |= {key: _of(int, content[key]) for key in NUMBERS}
        keys, shared = (
            {key: _of(str, value) for key, value in content[name].items()}
            for name in ("keys", "shared")
        )
        backbone, file = content["backbone"], Path(content["config_file"])
        _of(str, backbone or "")
        part = PROTOCOLS[names["protocol"]].parts[names["part"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' does not say which run it is of, as protocols here do "
            f"({in_short(error)}): {REMEDY}"
        ) from None
    names |= {"protocol": PROTOCOLS[names["protocol"]], "eval_only": part.eval_only}
    opts = tuple(word for pair in keys.items() for word in pair)
    run = Run(**names, folder=folder, config_file=file, opts=opts)
    return Launch(run, backbone, shared)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is not {kind.__name__}")
    return value


def _name(value: Any) -> str:
    """Return a text that can be the name of a folder, or is empty."""
    if _of(str, value) in (".", "..") or "/" in value or "\0" in value:
        raise ValueError(f"{value!r:.40} is not a name")
    return str(value)
