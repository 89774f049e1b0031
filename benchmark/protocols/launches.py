"""Writes and reads what a launcher started in a folder: `launch` in its `run.json`."""

from pathlib import Path
from typing import Any

from recipe.configs import read_pairs
from trainers.prompting.checkpoint.identity import RUN, read_run, write_run
from trainers.prompting.errors import UserError, in_short

from . import PROTOCOLS
from .base import Run

CONSOLE = "console.txt"  # of a launcher, in the folder of a run
NAMES = ("part", "source", "dataset", "trainer", "config", "subsample", "seed", "shots")
REMEDY = "run again, or remove it"


def write_launch(run: Run) -> None:
    """Write what the run is into its folder; raises OSError.

    `keys` are KEY VALUE pairs of this run (--vary).
    """
    content: dict[str, Any] = {name: getattr(run, name) for name in NAMES}
    content |= {"protocol": run.protocol.name, "keys": read_pairs(run.opts)}
    write_run(run.folder, launch=content | {"config_file": str(run.config_file)})


def read_launch(folder: Path) -> Run | None:
    """Return the run that was started in a folder; None if none was by a launcher."""
    whole, path = read_run(folder, REMEDY), folder / RUN
    if whole is None or ("run" in whole and "launch" not in whole):  # of train.py itself
        return None
    try:
        content = whole["launch"]
        names: dict[str, Any] = {key: str(content[key]) for key in NAMES}
        names |= {key: int(content[key]) for key in ("seed", "shots")}
        protocol = PROTOCOLS[content["protocol"]]
        return Run(
            **names,
            protocol=protocol,
            folder=folder,
            eval_only=protocol.parts[names["part"]].eval_only,
            config_file=Path(content["config_file"]),
            opts=tuple(str(word) for pair in content["keys"].items() for word in pair),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' does not say which run it is of, as protocols here do "
            f"({in_short(error)}): {REMEDY}"
        ) from None
