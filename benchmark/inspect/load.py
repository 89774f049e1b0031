"""A run for the commands that look into one; what loading says goes to stderr."""

import sys
from contextlib import redirect_stdout
from pathlib import Path


def load_run(folder: Path, **changes):
    """As `trainers.prompting.load_run`."""
    from trainers.prompting import load_run

    with redirect_stdout(sys.stderr):
        return load_run(folder, **changes)


def test_images(run) -> list:
    """The test images of the data set that a run was trained on, as Dassl's `Datum`."""
    from dassl.data.datasets import build_dataset

    import datasets  # noqa: F401 (registers the data sets)

    with redirect_stdout(sys.stderr):
        return build_dataset(run.settings).test
