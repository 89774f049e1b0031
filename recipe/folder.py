"""Reserves the output folder for one run at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import CALL, hold_lock, name_full_disk, remove_halves

# Seconds to wait for the lock: data loading workers of a killed run hold it until they notice.
PATIENCE = 10


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes there.

    The lock is released when this process ends, even if it is killed.

    Raises:
        OSError: the system refuses to write or to read.
    """
    if (folder / CALL).exists():
        raise UserError(
            f"The output folder '{folder}' is one of advise, whose files this run would replace: "
            "choose another --output-dir"
        )
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        if not stack.enter_context(hold_lock(folder / ".lock", PATIENCE)):
            raise UserError(
                f"The output folder '{folder}' is being written by another run: wait until "
                "it has ended, or choose another --output-dir"
            )
        with name_full_disk(folder):
            remove_halves(folder)
            yield
