"""Runs on validation images, to choose settings by: which runs, and on which data sets."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout

from trainers.prompting.errors import UserError

from ..protocols.base import Run
from .checks import cfg_of
from .engine import Engine

SPLIT = "TEST.SPLIT"


def on_validation(pairs: Mapping[str, str]) -> bool:
    """Return True if KEY VALUE pairs of runs test them on validation images."""
    return pairs.get(SPLIT) == "val"


def check_validation(engine: Engine) -> None:
    """Raise a UserError if a data set lacks validation images apart from its test images."""
    from dassl.data.datasets import build_dataset  # with PyTorch: not for a dry run

    for run in {run.dataset: run for run in engine.todo}.values():
        with redirect_stdout(io.StringIO()):  # each run prints the same
            data = build_dataset(cfg_of(run, engine.settings))
        check(run, {item.impath for item in data.val or ()}, {item.impath for item in data.test})


def check(run: Run, validation: set[str], test: set[str]) -> None:
    """Raise a UserError if validation images are missing, or are test images."""
    what_to_do = "tune on other data sets, and use the settings chosen there (--config)"
    if not validation:
        raise UserError(f"{run.dataset} lacks validation images: {what_to_do}")
    if validation & test:
        raise UserError(
            f"The validation images of {run.dataset} are its test images, on which settings must "
            f"not be chosen: {what_to_do}"
        )
