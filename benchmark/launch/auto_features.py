"""`--features auto`: write the features that runs lack, once for each data set, before the first.

A file is kept below the output, and used again while its images and the CLIP are the same.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import hold_lock

from ..data.feature_file import is_made_of, path_of
from ..protocols.base import Run
from ..protocols.configs import features_of
from .checks import check_settings
from .data import fingerprint_at
from .engine import Settings
from .start import module_path

AUTO = "auto"  # in place of a file
FOLDER = "features"  # below the output


def feature_files(output: Path, datasets: set[str], backbone: str) -> dict[str, str]:
    """Return the file of each data set under a CLIP; raises UserError for one without images."""
    for dataset in sorted(datasets):
        if features_of(dataset):
            raise UserError(f"{dataset} is a file of features itself: leave --features {AUTO} out")
    return {name: str(path_of(output / FOLDER, name, backbone).absolute()) for name in datasets}


def write_lacking(runs: list[Run], settings: Settings) -> None:
    """Write the files that these runs need and that are not there, or are of other images or CLIPs.

    Raises:
        SystemExit: `python -m benchmark features`, which has said why, has failed.
    """
    assert settings.auto is not None, "the files are to be written"
    names = dict.fromkeys(run.dataset for run in runs)
    lacking = [name for name in names if not _fits(name, settings.root_of_set(name), settings)]
    if not lacking:
        return
    # as on images, since no header can be read yet; it loads the plug-ins
    check_settings(runs, replace(settings, features={}, backbone=settings.auto))
    _check_methods({run.trainer for run in runs})
    folder = Path(settings.features[lacking[0]]).parent
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock") as free:
        if not free:
            raise UserError(f"Another command writes to '{folder}': wait until it has")
        for name in lacking:
            words = ["features", name, "--redo", "--root", str(settings.root or "")]
            words += ["--backbone", settings.auto, "--output", str(folder)]
            words += [word for plugin in settings.plugins for word in ("--plugin", plugin)]
            # a separate process, whose memory is free again when the runs begin
            done = subprocess.run(
                [sys.executable, "-m", "benchmark", *words],
                env=os.environ | {"PYTHONPATH": module_path()},
                stdout=sys.stderr,
            )
            if done.returncode:
                sys.exit(done.returncode)


def _fits(dataset: str, root: str | None, settings: Settings) -> bool:
    """Return True if a data set's file is there, and is of these images under this CLIP."""
    from trainers.prompting.storage.features import read_header

    try:
        header = read_header(settings.features[dataset])
    except UserError:  # it is missing or damaged, so it is written
        return False
    return is_made_of(header["made_of"], fingerprint_at(dataset, root or ""), str(settings.auto))


def _check_methods(names: set[str]) -> None:
    from trainers.prompting.building.config import methods_on
    from trainers.prompting.trainer.feature_rows import clip_of_rows

    reasons = methods_on(clip_of_rows())
    for name in sorted(names):
        if reasons.get(name, "it is a trainer of other code"):
            run = [other for other, reason in reasons.items() if not reason]
            raise UserError(
                f"{name} does not run on features: leave --features {AUTO} out, or choose among "
                f"{', '.join(run)}"
            )
