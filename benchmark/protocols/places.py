"""The outputs below a folder: a protocol's runs have their places in one."""

from pathlib import Path

from . import PROTOCOLS
from .base import listed
from .tuning import TUNING

PLACES = {
    part.folder.split("/")[0]
    for protocol in (*PROTOCOLS.values(), TUNING)
    for part in protocol.parts.values()
}
DEPTH = 3  # subfolders of subfolders that are searched


def outputs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The folder if runs of a protocol have a place in it, else the nearest below that have.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    names = listed(folder)
    if PLACES.intersection(names):
        return [folder]
    if not depth:
        return []
    inside = [folder / name for name in sorted(names) if not name.startswith(".")]
    return [found for path in inside if path.is_dir() for found in outputs_below(path, depth - 1)]
