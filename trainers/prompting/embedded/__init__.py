"""The embedded CLIP by its name, and the embedded images. Needs no PyTorch."""

import hashlib
import json
import os
from pathlib import Path

EMBEDDED = {"emoji": Path(__file__).with_name("emoji_clip.safetensors")}
IMAGES = Path(__file__).with_name("emoji.zip")  # with split files and licences
HASHES = "PROMPTING_HASHES"  # environment variable: what another process has read
MOST = 64  # hashes in it
_hashes: dict[str, str] = {}


def other_weights(name: str, then: str | None, now: str | None) -> str | None:
    """Return how the weights of a backbone differ from those of a training; None if they do not.

    Args:
        name: of the backbone.
        then: SHA-256 in the record or checkpoint; None where none is known.
        now: SHA-256 of the weights that have the name; None where they are not on this machine.

    Examples:
        >>> other_weights("emoji", "1" * 64, "2" * 64)
        "other weights of 'emoji': SHA-256 11111111..., now 22222222..."
    """
    if not then or not now or then == now:
        return None
    return f"other weights of '{name}': SHA-256 {then[:8]}..., now {now[:8]}..."


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; it is read again only if it was changed."""
    now = os.stat(path)
    key = f"{os.path.abspath(path)} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"
    if key not in _hashes:
        _hashes.update(json.loads(os.environ.get(HASHES, "{}")))
    if key not in _hashes:
        with open(path, "rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def known_hashes() -> dict[str, str]:
    """Return the environment of a process that need not read again what this one has read."""
    return {HASHES: json.dumps(dict([*_hashes.items()][-MOST:]))}
