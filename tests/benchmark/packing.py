"""Change the files of packs, as damage or a forger would."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from benchmark.report.packs import described

RUN = "base2new/test_new/emoji/shots_2/CoOp/emoji/seed1"
RECORD, PREDICTIONS = f"{RUN}/results.json", f"{RUN}/predictions.npz"


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_manifest(files: dict[str, bytes], change=lambda manifest: None) -> dict[str, bytes]:
    """Return the files with a manifest that matches them, as a forger would write it."""
    manifest = json.loads(files["manifest.json"])
    for name, entry in manifest["runs"].items():
        for file in entry["files"]:
            entry["files"][file] = described(files[f"{name}/{file}"])
    change(manifest)
    return files | {"manifest.json": json.dumps(manifest).encode()}


def column(name, change):
    """Return a function that changes a column of the predictions."""

    def changed(files):
        with np.load(io.BytesIO(files[PREDICTIONS])) as found:
            arrays = dict(found)
        arrays[name] = change(arrays[name])
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        return with_manifest(files | {PREDICTIONS: stream.getvalue()})

    return changed


def record(**keys):
    """Return a function that changes keys of a record."""

    def changed(files):
        return with_manifest(
            files | {RECORD: json.dumps(json.loads(files[RECORD]) | keys).encode()}
        )

    return changed
