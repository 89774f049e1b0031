"""Find output folders, which hold the runs of protocols, in a folder and its subfolders."""

import os
from pathlib import Path

from . import PROTOCOLS
from .base import listed
from .tuning import TUNING

PLACES = {
    part.folder.split("/")[0]
    for protocol in (*PROTOCOLS.values(), TUNING)
    for part in protocol.parts.values()
}
DEPTH = 3  # levels of subfolders that are searched


def outputs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the folder itself if it is an output, else the nearest outputs below it.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    names = listed(folder)
    if PLACES.intersection(names):
        return [folder]
    if not depth:
        return []
    inside = [folder / name for name in sorted(names) if not name.startswith(".")]
    return [
        found for path in inside if os.path.isdir(path) for found in outputs_below(path, depth - 1)
    ]
