"""The key of an image file, which identifies copies and images of a training."""

import errno
import hashlib
import os
import stat

from ..errors import UserError

MOST = 16 << 20  # bytes that are read of a file at most
# Formats without compression: two images may have the same middle, and are read from the start.
PLAIN = (".bmp", ".ppm", ".pgm", ".tif", ".tiff")
PIECE = 4096  # bytes read of a file: from its middle, since files of one camera begin alike
OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # no wait: a pipe
EMPTY = -1  # the key of an empty file


def image_key(path: str) -> int:
    """Return a number of 64 bits that files with equal content share; `EMPTY` for an empty one.

    It is a hash of the size and of a piece of the file, and in PLAIN formats of its beginning.
    """
    try:
        file = os.open(path, OPENING)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            piece = b""
            if path.lower().endswith(PLAIN):
                with os.fdopen(os.dup(file), "rb") as start:
                    piece = start.read(MOST)
            if status.st_size > PIECE:
                os.lseek(file, (status.st_size - PIECE) // 2, os.SEEK_SET)
            piece += os.read(file, PIECE)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(
            f"The image '{path}' cannot be read ({error.strerror}): restore or remove it"
        ) from None
    if not status.st_size:
        return EMPTY
    digest = hashlib.sha256(status.st_size.to_bytes(8, "little") + piece).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
