"""The images of a run for the commands that look into one."""

from trainers.prompting.use.commands.load import load_run, quiet, run_parser

__all__ = ["load_run", "run_parser", "test_images"]


def test_images(run) -> list:
    """The test images of the data set that a run was trained on, as Dassl's `Datum`."""
    from dassl.data.datasets import build_dataset

    import datasets  # noqa: F401 (registers the data sets)

    with quiet():
        return build_dataset(run.settings).test
