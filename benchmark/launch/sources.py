"""Runs of other code: found by their records, and renamed."""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from trainers.prompting.checkpoint.cfg_texts import BEGUN
from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_json, set_aside

from ..protocols.base import Run
from .locks import hold


def read_begun(folder: Path) -> dict:
    """Return what a training was begun with; empty if it does not say so."""
    with contextlib.suppress(UserError):  # train.py reports it
        return read_json(folder / BEGUN, "")
    return {}


def rename(aside: Iterable[Run]) -> None:
    """Rename the folders of runs that are done anew.

    A folder in which another launcher works stays.

    Raises:
        OSError: a folder cannot be renamed.
    """
    for run in aside:
        with hold(run) or contextlib.nullcontext() as lock:
            if lock:
                print(f"{run}: the old run is in '{set_aside(run.folder)}'", file=sys.stderr)
