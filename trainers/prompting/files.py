"""Files that appear whole or not at all, and folders that one process holds at a time."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what a file system without them answers


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file by way of a temporary one beside it: a kill leaves the old file or the new.

    Raises:
        OSError: as the system says.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def held(path: str | os.PathLike, patience: float = 0) -> Iterator[bool]:
    """Hold a lock file for the length of a block, or find that another process holds it.

    Args:
        path: the lock file; it is made where it is not there.
        patience: seconds to wait for another process.

    Yields:
        Whether this process holds it; True, too, where the file system has no locks.

    Raises:
        OSError: the file cannot be made.
    """
    lock = filelock.FileLock(path, timeout=patience)
    try:
        lock.acquire()
        alone = True
    except filelock.Timeout:
        alone = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        alone = True
    try:
        yield alone
    finally:
        lock.release()
