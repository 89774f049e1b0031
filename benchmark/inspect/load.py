"""Load a run and its test images, for the commands that show what it has learned."""

from trainers.prompting.use.commands.load import load_run, quiet, run_parser

__all__ = ["load_run", "run_parser", "test_images"]


def test_images(run) -> list:
    """Return the test images of a run's data set, as Dassl's `Datum`."""
    from dassl.data.datasets import build_dataset

    import datasets  # noqa: F401 (registers the data sets)

    with quiet():
        return build_dataset(run.settings).test
