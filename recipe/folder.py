"""Reserves the output folder for one run at a time, and explains errors of the file system."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import held

# Seconds to wait for the lock: data loading workers of a killed run hold it until they notice.
PATIENCE = 10

# Errors of the system, and what a user can do about them.
REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "choose another folder",
    errno.EISDIR: "a file belongs there: remove that folder",
}
# the same of what a run writes in its folder
INSIDE = REMEDIES | dict.fromkeys(
    (errno.EEXIST, errno.ENOTDIR), "a folder belongs there: remove that file"
)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes there.

    The lock is released when this process ends, even if it is killed.

    Raises:
        UserError: another run is writing there, or the system refuses to write or to read.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            acquired = stack.enter_context(held(folder / ".lock", PATIENCE))
        except OSError as error:
            raise UserError(
                f"The output folder '{folder}' cannot be written ({error.strerror}): "
                f"{REMEDIES.get(error.errno or 0, 'choose another --output-dir')}"
            ) from None
        if not acquired:
            raise UserError(
                f"The output folder '{folder}' is being written by another run: wait until "
                "it has ended, or choose another --output-dir"
            )
        try:
            for left in (*folder.glob("*.tmp"), *folder.glob("*/*.tmp")):
                left.unlink()  # a killed run was writing it
            yield
        except OSError as error:
            if error.errno is None or error.errno not in INSIDE:
                raise
            raise UserError(
                f"'{error.filename or folder}' cannot be written or read ({error.strerror}): "
                f"{INSIDE[error.errno]}, then rerun to resume from the last checkpoint",
                exit_code=1,
            ) from None
