"""Files that appear whole or not at all, or are read whole, and folders with one writer."""

import contextlib
import errno
import json
import os
import socket
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from ..errors import UserError, in_short

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what a file system without them answers


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file by way of a temporary one beside it: a kill leaves the old file or the new.

    Raises:
        OSError: as the system says.
    """
    path = Path(path)
    # a name of its own also where several machines share the folder
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: str | os.PathLike) -> bytes:
    """The content of a regular file; of anything else there might be no end.

    Raises:
        OSError: as the system says, or it is a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return Path(path).read_bytes()


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file; `remedy` ends the sentence about one that cannot be read.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        return parsed(read_file(path).decode("utf-8"), f"'{path}'", remedy)
    except (OSError, UnicodeError) as error:
        raise UserError(f"'{path}' cannot be read ({in_short(error)}): {remedy}") from error


def parsed(text: str, source: str, remedy: str) -> dict:
    """The object in a JSON text; raises as `read_json`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} cannot be read ({in_short(error)}): {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{source} is a {type(found).__name__}, not an object: {remedy}")
    return found


def damaged_part(path: str | os.PathLike) -> str | None:
    """What is wrong in a zip archive, of PyTorch as of others; None if it is whole, or no archive.

    PyTorch itself does not look at the checksums.
    """
    if not (os.path.isfile(path) and zipfile.is_zipfile(path)):  # a pipe would be waited for
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception as error:  # a damaged archive raises nearly every type there is
        return in_short(error)


@contextlib.contextmanager
def held(path: str | os.PathLike, patience: float = 0) -> Iterator[bool]:
    """Hold a lock file for the length of a block, or find that another process holds it.

    Where the file system has no locks, a second file beside it, which tells host and process, is
    the lock as long as it is there; one whose process is gone from this host is taken over.

    Args:
        path: the lock file; it is made where it is not there.
        patience: seconds to wait for another process.

    Yields:
        Whether this process holds it.

    Raises:
        OSError: the file cannot be made.
    """
    lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=patience)
    try:
        alone = _acquired(lock)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(f"{os.fspath(path)}.soft", timeout=patience)
        alone = _acquired(lock)
    try:
        yield alone
    finally:
        lock.release()


def _acquired(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    return True
