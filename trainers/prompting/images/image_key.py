"""The key of an image file, which identifies copies and images of a training."""

import hashlib
import os

from ..errors import UserError

MOST = 16 << 20  # bytes that are read of a file at most
# Formats without compression: two images may have the same middle, and are read from the start.
PLAIN = (".bmp", ".ppm", ".pgm", ".tif", ".tiff")
PIECE = 4096  # bytes read of a file: from its middle, since files of one camera begin alike
EMPTY = -1  # the key of an empty file


def image_key(path: str) -> int:
    """Return a number of 64 bits that files with equal content share; `EMPTY` for an empty one.

    It is a hash of the size and of a piece of the file, and in PLAIN formats of its beginning.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            piece = file.read(MOST) if path.lower().endswith(PLAIN) else b""
            if size > PIECE:
                file.seek((size - PIECE) // 2)
            piece += file.read(PIECE)
    except OSError as error:
        raise UserError(
            f"The image '{path}' cannot be read ({error.strerror}): restore or remove it"
        ) from None
    if not size:
        return EMPTY
    digest = hashlib.sha256(size.to_bytes(8, "little") + piece).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
