"""A run for the commands that look into one."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


def load_run(folder: Path, **changes):
    """As `trainers.prompting.load_run`."""
    from trainers.prompting import load_run

    with quiet():
        return load_run(folder, **changes)


def test_images(run) -> list:
    """The test images of the data set that a run was trained on, as Dassl's `Datum`."""
    from dassl.data.datasets import build_dataset

    import datasets  # noqa: F401 (registers the data sets)

    with quiet():
        return build_dataset(run.settings).test


@contextmanager
def quiet() -> Iterator[None]:
    """What is printed appears, on stderr, only if it ends in an error that nobody foresaw."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except Exception as error:
        if not hasattr(error, "exit_code"):
            print(said.getvalue(), file=sys.stderr)
        raise
