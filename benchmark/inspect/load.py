"""Load a run and its test images, for the commands that show what it has learned."""

from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.use.commands.load import load_run, quiet, run_parser

FILES = ("DATASET.FEATURES", "DATASET.SENTENCES")  # a run knows their content, and not their path
__all__ = ["load_run", "run_parser", "test_images"]


def test_images(run) -> list:
    """Return the test images of a run's data set, as Dassl's `Datum`."""
    from dassl.data.datasets import build_dataset

    from recipe.settings import build_cfg

    read = [key for key in KEYS if key.startswith("DATASET.") and key not in FILES]
    keys = {key: run.settings[key] for key in ("SEED", *read) if key in run.settings}
    keys["TRAINER.NAME"] = run.method
    with quiet():
        return build_dataset(build_cfg([(f"the run '{run.path}'", keys)])).test
