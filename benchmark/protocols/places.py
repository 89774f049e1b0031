"""Find output folders, which hold the runs of protocols, in a folder and its subfolders."""

import os
from collections.abc import Iterable
from pathlib import Path

from trainers.prompting.errors import printable
from trainers.prompting.storage.records import RECORD

from . import PROTOCOLS
from .base import Protocol, names_in

PLACES = {
    part.folder.split("/")[0] for protocol in PROTOCOLS.values() for part in protocol.parts.values()
}
DEPTH = 3  # levels of subfolders that are searched


def outputs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the folder itself if it is an output, else the nearest outputs below it.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    names = names_in(folder)
    if PLACES.intersection(names):
        return [folder]
    if not depth:
        return []
    inside = [folder / name for name in sorted(names) if not name.startswith(".")]
    return [
        output
        for path in inside
        if os.path.isdir(path)
        for output in outputs_below(path, depth - 1)
    ]


def place_in_output(folder: Path) -> tuple[Path, str] | None:
    """Return the output around a folder of protocols, such as `output/base2new`, and its name.

    None for any other folder.
    """
    folder = folder.resolve()
    if folder.name not in PLACES or not folder.is_dir() or outputs_below(folder):
        return None
    return folder.parent, folder.name


def stands_in(protocol: Protocol, place: str) -> bool:
    """Return True if runs of a protocol are in a folder of this name in the output."""
    return any(part.folder.split("/")[0] == place for part in protocol.parts.values())


def is_run(folder: Path) -> bool:
    """Return True for the folder of a finished run."""
    return os.path.isfile(folder / RECORD)


def runs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the folders of finished single runs in a folder and its subfolders, sorted."""
    if is_run(folder):
        return [folder]
    if not depth:
        return []
    names = sorted(name for name in names_in(folder) if name not in PLACES and name[0] != ".")
    paths = [folder / name for name in names]
    return [run for path in paths if os.path.isdir(path) for run in runs_below(path, depth - 1)]


def left_out(outputs: Iterable[Path]) -> str:
    """Return a sentence on the single runs in outputs of protocols; empty if there are none."""
    runs = list(dict.fromkeys(run for output in outputs for run in runs_below(output)))
    if not runs:
        return ""
    which = f"{len(runs)} single runs, such as '{runs[0]}'" if runs[1:] else f"'{runs[0]}'"
    return printable(f"left out: {which}, which `report RUN` shows")
