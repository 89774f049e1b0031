"""Reserves the output folder for one run at a time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from datasets.image_folder import ImageFolder
from trainers.prompting.errors import UserError, need
from trainers.prompting.storage.files import hold_lock, name_full_disk, remove_halves

# Seconds to wait for the lock: data loading workers of a killed run hold it until they notice.
PATIENCE = 10


def check_apart(cfg) -> None:
    """Refuse an output folder among own images, which would be other images when it resumes."""
    root, output = (
        os.path.realpath(os.path.expanduser(x)) for x in (cfg.DATASET.ROOT, cfg.OUTPUT_DIR)
    )
    of_images = issubclass(DATASET_REGISTRY.get(cfg.DATASET.NAME), ImageFolder)
    need(
        not (of_images and Path(output).is_relative_to(root)),
        f"--output-dir '{cfg.OUTPUT_DIR}' is in the folder of your images, '{root}', all of which "
        "is read: choose one outside",
    )


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes there.

    The lock is released when this process ends, even if it is killed.

    Raises:
        OSError: the system refuses to write or to read.
    """
    folder.mkdir(parents=True, exist_ok=True)  # first: an error then names the folder itself
    with ExitStack() as stack:
        if not stack.enter_context(hold_lock(folder / ".lock", PATIENCE)):
            soft = folder / ".lock.soft"  # which outlives the machine that wrote it
            dead = f"; if its machine has died, remove '{soft}'" if soft.exists() else ""
            raise UserError(
                f"The output folder '{folder}' is being written by another run: wait until "
                f"it has ended, or choose another --output-dir{dead}"
            )
        with name_full_disk(folder):
            remove_halves(folder)
            yield
