"""Reads untrusted zip files: their headers cannot make it allocate unlimited memory."""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import IO

MOST_DIRECTORY = 2**24  # bytes of a zip's directory: about 100,000 members
MOST_RATIO = 200  # of a member's size to its compressed size, for members above
FREE_BYTES = 2**20

# The end record of a zip without a comment, and the ZIP64 record that may precede it.
END = struct.Struct("<4s4H2LH")
ZIP64 = struct.Struct("<4sLQL")


def opened(source: Path | io.BytesIO) -> zipfile.ZipFile:
    """Open a zip for reading.

    Raises:
        ValueError: it is not a zip, or has too many members.
        Exception: it is damaged; of almost any type.
    """
    if isinstance(source, Path):
        with open(source, "rb") as file:
            tail = _end(file)
    else:
        tail = _end(source)
    mark, *_, size, _, _ = END.unpack(tail[-END.size :].ljust(END.size))
    if mark != b"PK\5\6":
        raise ValueError("it is not a zip, or is cut off")
    if size > MOST_DIRECTORY or tail.startswith(b"PK\6\7"):
        raise ValueError("it has too many files")
    return zipfile.ZipFile(source)


def _end(file: IO[bytes]) -> bytes:
    file.seek(-min(END.size + ZIP64.size, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return file.read()


def unpacked(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return the content of a member.

    Raises:
        ValueError: it has more than `most` bytes, a ratio to its compressed size above MOST_RATIO
            (a zip bomb), or a compression that cannot be read in parts.
        Exception: it is damaged or missing; of almost any type.
    """
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"'{name}' is compressed by another method than deflate")
    limit = min(most, max(MOST_RATIO * info.compress_size, FREE_BYTES))
    with archive.open(info) as file:
        found = file.read(limit + 1)  # the size in the header may be wrong
    if len(found) > limit:
        raise ValueError(f"'{name}' has more than {limit:,} bytes")
    return found
