"""Reads images ahead; says which files are not read: those whose colours or frame are guessed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import UnidentifiedImageError

from ..errors import in_short, need
from .class_folders import UNREAD

T = TypeVar("T")


def check_image(image: Any) -> None:
    """Raise a UserError for an image, as Pillow has opened it, of 16 bits or of several frames."""
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's photo
    need(frames == 1, f"it has {frames} frames: give one of them as an image")
    of_16_bits = image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
    need(not of_16_bits, "it has 16 bits: convert it to 8")


def why_unread(path: str, error: Exception) -> str:
    """Return why a file that a decoder refuses with an error is no image, and what to do."""
    if hasattr(error, "exit_code"):  # a user's mistake, also one of Dassl's
        return str(error)
    if path.lower().endswith(UNREAD):
        return "it is HEIC: convert it to JPEG"
    if Path(path).is_file() and not Path(path).stat().st_size:
        return "it is empty"
    return "it is not an image" if isinstance(error, UnidentifiedImageError) else in_short(error)


def read_ahead(
    pool: Executor, read: Callable[[T], Any], items: Iterable[T], size: int
) -> Iterator[tuple[list[T], Iterator[Any]]]:
    """Yield each batch of items with their images, while the next batch is being read."""
    rest, before = iter(items), None
    while batch := list(islice(rest, size)):
        now = batch, pool.map(read, batch)
        if before is not None:
            yield before
        before = now
    if before is not None:
        yield before
