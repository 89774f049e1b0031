"""The embedded CLIP by its name, and the embedded images. Needs no PyTorch."""

import functools
import hashlib
import os
from pathlib import Path

EMBEDDED = {"emoji": Path(__file__).with_name("emoji_clip.safetensors")}
IMAGES = Path(__file__).with_name("emoji.zip")  # with split files and licences


def other_weights(name: str, then: str | None, now: str | None) -> str | None:
    """Return how the weights of a backbone differ from those of a training; None if they do not.

    Args:
        name: of the backbone.
        then: SHA-256 in the record or checkpoint; None where none is known.
        now: SHA-256 of the weights that have the name; None where they are not in one file.

    Examples:
        >>> other_weights("emoji", "1" * 64, "2" * 64)
        "other weights of 'emoji': SHA-256 11111111..., now 22222222..."
    """
    if not then or not now or then == now:
        return None
    return f"other weights of '{name}': SHA-256 {then[:8]}..., now {now[:8]}..."


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; it is read again only if it was changed."""
    return _sha256(str(path), os.stat(path).st_mtime_ns)


@functools.lru_cache
def _sha256(path: str, _changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
