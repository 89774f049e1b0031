"""Atomic writes, reads of JSON and zip files, and locks that leave a folder one writer."""

import contextlib
import errno
import json
import os
import re
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UserError, in_short

CALL = "call.json"  # marks a folder as an output of `advise`
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # errors of a file system without locks
MAC = "__MACOSX"  # a folder that a Mac adds to its archives


def is_visible(name: str) -> bool:
    """Return True for the name of a file or folder that is not hidden, nor `MAC`."""
    return not name.startswith(".") and name != MAC


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file atomically, by renaming a temporary one: a kill leaves the old or the new file.

    Raises:
        OSError: as the system says.
    """
    path = Path(path)
    # a unique name, also if several machines share the folder
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:  # of the file that was asked for; a full disk names none
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_halves(folder: Path) -> None:
    """Remove what killed processes were writing in a folder and those in it.

    The names of `write_whole` and of Dassl end in a process and .tmp; other files stay.
    """
    for left in (*folder.glob("*.tmp"), *folder.glob("*/*.tmp")):
        if re.fullmatch(r".+\.[0-9]+\.tmp", left.name):
            left.unlink()


def read_json(path: Path, remedy: str, pairs: Callable | None = None) -> dict:
    """Return the object in a JSON file; `remedy` ends the message if it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin with a mark
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({in_short(error)}): {remedy}") from error
    return parse_json(text, f"'{path}'", remedy, pairs)


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the pairs of a JSON object as a dict; raises ValueError for a key given twice."""
    if len(found := dict(pairs)) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is twice")
    return found


def parse_json(text: str, source: str, remedy: str, pairs: Callable | None = None) -> dict:
    """Return the object in a JSON text; raises as `read_json`."""
    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        raise UserError(f"{source} cannot be read ({in_short(error)}): {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} is a {type(content).__name__}, not an object: {remedy}")
    return content


def damaged_part(path: str | os.PathLike) -> str | None:
    """Return the damaged part of a zip archive; None if it is intact, or not an archive.

    Checkpoints are zip archives, and PyTorch does not compare their checksums.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception as error:  # a damaged archive raises errors of many types
        return in_short(error)


@contextlib.contextmanager
def name_full_disk(folder: Path) -> Iterator[None]:
    """Give errors of the system in this block that name no file, as of a full disk, the folder."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = os.fspath(folder)
        raise


@contextlib.contextmanager
def hold_lock(path: str | os.PathLike, patience: float = 0) -> Iterator[bool]:
    """Hold a lock file during a block, or report that another process holds it.

    If the file system has no locks, a second file, `PATH.soft`, serves as the lock while it exists.
    It names its host and process; if that process has ended on this host, the lock is taken over.

    Args:
        path: the lock file; created if missing.
        patience: seconds to wait for another process.

    Yields:
        True if this process holds the lock.

    Raises:
        OSError: the file cannot be created.
    """
    import filelock  # here, so that a command can say that it is missing

    def acquire() -> bool:
        try:
            lock.acquire()
        except filelock.Timeout:
            return False
        return True

    lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=patience)
    try:
        is_ours = acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(f"{os.fspath(path)}.soft", timeout=patience)
        is_ours = acquire()
    try:
        yield is_ours
    finally:
        lock.release()
