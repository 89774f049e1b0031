"""Reads a user's images as RGB, and says which are not: whose colours or frame are guessed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError, in_short, need
from .class_folders import UNREAD

T = TypeVar("T")
THINNEST = 100  # a side over the other


def check_image(image: Any) -> None:
    """Raise a UserError for an image, as Pillow has opened it, of 16 bits or of several frames."""
    need(image.format != "EPS", "PostScript is a program")  # which Pillow would execute
    phone = image.format in ("MPO", "HEIF")  # with pictures beside its photo
    frames = 1 if phone else getattr(image, "n_frames", 1)
    need(frames == 1, f"it has {frames} frames: give one of them as an image")
    of_16_bits = image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
    need(not of_16_bits, "it has 16 bits: convert it to 8")
    thin = max(image.size) > THINNEST * min(image.size)
    need(not thin, f"it is {image.width:,} x {image.height:,} pixels: cut it to less than 100:1")


def read_single(file: Any, formats: list[str] | None = None) -> Any:
    """Return a user's image, by path or as an open file, as RGB and upright.

    Raises:
        UserError: why it cannot be classified, such as another format than these.
    """
    try:
        with Image.open(file, formats=formats) as image:
            check_image(image)
            clear = image.mode == "P" and "transparency" in image.info
            return upright((image.convert("RGBA") if clear else image).convert("RGB"))
    except Exception as error:  # of many types
        raise UserError(why_unread(str(file), error)) from None


def upright(image: Any) -> Any:
    """Return a decoded image as its EXIF orientation says; as it is, if that says nothing.

    Pillow turns TIFF where it decodes it, for all data sets.
    """
    with contextlib.suppress(Exception):  # of damaged data, of many types
        ImageOps.exif_transpose(image, in_place=True)
    return image


def why_unread(path: str, error: Exception) -> str:
    """Return why a file that a decoder refuses with an error is no image, and what to do."""
    if hasattr(error, "exit_code"):  # a user's mistake, also one of Dassl's
        return str(error)
    if path.lower().endswith(UNREAD):
        return "it is HEIC: `pip install pillow-heif`, or convert it to JPEG"
    if Path(path).is_file() and not Path(path).stat().st_size:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a format that is read: convert it to JPEG"
    return in_short(error)


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
