"""Zips from strangers: memory is taken for what is there, not for what headers claim."""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import IO

MOST_DIRECTORY = 2**24  # what a zip says of its members: some 100,000
MOST_RATIO = 200  # of a member to what it takes in the zip, where it is larger than
FREE_BYTES = 2**20

# The last bytes of a zip without a comment, and what precedes them in one of any size.
END = struct.Struct("<4s4H2LH")
ZIP64 = struct.Struct("<4sLQL")


def opened(source: Path | io.BytesIO) -> zipfile.ZipFile:
    """A zip that is read.

    Raises:
        ValueError: it is none, or has more members than there may be.
        Exception: it is damaged; nearly every type there is.
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
        raise ValueError("it has more files than it may have")
    return zipfile.ZipFile(source)


def _end(file: IO[bytes]) -> bytes:
    file.seek(-min(END.size + ZIP64.size, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return file.read()


def unpacked(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The content of a member.

    Raises:
        ValueError: it has more than `most` bytes, or so many more than it takes in the zip that
            it is there to fill the memory, or is compressed in a way that cannot be read in parts.
        Exception: it is damaged, or not there; nearly every type there is.
    """
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"'{name}' is compressed in another way than deflate")
    limit = min(most, max(MOST_RATIO * info.compress_size, FREE_BYTES))
    with archive.open(info) as file:
        found = file.read(limit + 1)  # not what the header says: that may be wrong
    if len(found) > limit:
        raise ValueError(f"'{name}' has more than {limit:,} bytes")
    return found
