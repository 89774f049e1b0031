"""Runs of other code: found by their records, kept or renamed."""

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_json, write_whole
from trainers.prompting.storage.source import BEGUN, digests, edited_files, set_aside

from ..protocols.base import Run
from ..records import RESULTS, value_at
from .locks import hold


def read_begun(folder: Path) -> dict:
    """Return what a training was begun with; empty if it does not say so."""
    with contextlib.suppress(UserError):  # train.py reports it
        return read_json(folder / BEGUN, "")
    return {}


def _plugins(record: dict, given: Iterable[str]) -> list[str]:
    """Return the plug-ins given, then the files that a record names, where they were."""
    named = record.get("plugins") or value_at(record.get("config"), "TRAINER.PLUGINS") or []
    return [*given, *(name for name in named if str(name).endswith(".py"))]


def edited_since(record: dict, plugins: Iterable[str]) -> list[str]:
    """Return the files of the code of `results.json` or `begun.json` that were edited since."""
    return edited_files(record.get("source"), _plugins(record, plugins), record.get("git"))


def accept_record(record: dict, files: list[str], plugins: Iterable[str]) -> dict:
    """Return a record as of the present code, which names the files that were edited since."""
    source = digests(record["source"], _plugins(record, plugins))
    return record | {"source": source, "edited": sorted({*(record.get("edited") or ()), *files})}


def settle(accepted: dict[Run, dict], aside: Iterable[Run]) -> None:
    """Write accepted records, and rename the folders of runs that are done anew.

    A folder in which another launcher works stays.

    Raises:
        OSError: a file or folder cannot be written.
    """
    for run, record in accepted.items():
        write_whole(run.folder / RESULTS, json.dumps(record, indent=1) + "\n")
    for run in aside:
        with hold(run) or contextlib.nullcontext() as lock:
            if lock:
                print(f"{run}: the old run is in '{set_aside(run.folder)}'", file=sys.stderr)
