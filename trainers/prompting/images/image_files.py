"""Reads images, of any mode as RGB, and says which are not: whose colours or frame are guessed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError, in_short, need
from .class_folders import UNREAD

T = TypeVar("T")
THINNEST = 100  # a side over the other


def check_image(image: Any) -> None:
    """Raise a UserError for an image, as Pillow has opened it, of 16 bits or of several frames."""
    phone = image.format in ("MPO", "HEIF")  # with pictures beside its photo
    frames = 1 if phone else getattr(image, "n_frames", 1)
    need(frames == 1, f"it has {frames} frames: give one of them as an image")
    of_16_bits = image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
    need(not of_16_bits, "it has 16 bits: convert it to 8")
    thin = max(image.size) > THINNEST * min(image.size)
    need(not thin, f"it is {image.width:,} x {image.height:,} pixels: cut it to less than 100:1")


def read_image(path: str) -> Any:
    """Return the image at a path as RGB; its orientation in EXIF data is not applied.

    Raises:
        UserError: it is missing, cannot be decoded, or has pixels out of range.
    """
    try:
        with Image.open(path) as image:
            return decode_image(image, f"image '{path}'")
    except UserError:
        raise
    except Exception as error:  # decoders raise errors of many types
        why = why_unread(path, error)
        raise UserError(f"Cannot decode the image '{path}' ({why}): replace it", 1) from None


def read_single(file: Any, formats: list[str] | None = None) -> Any:
    """Return a user's image, by path or as an open file, as RGB and upright.

    Raises:
        UserError: why it cannot be classified, such as another format than these.
    """
    try:
        with Image.open(file, formats=formats) as image:
            check_image(image)
            return upright(decode_image(image))
    except Exception as error:  # of many types
        raise UserError(why_unread(str(file), error)) from None


def decode_image(image: Any, name: str = "image") -> Any:
    """Return an image that Pillow has opened as RGB, as dassl-lite does; errors call it `name`.

    Raises:
        UserError: pixels are out of range.
        Exception: as decoders raise, of many types.
    """
    if image.format == "EPS":  # Pillow would execute it with Ghostscript
        raise ValueError("PostScript is a program")
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip these
        image = Image.fromarray(_shades(image, name))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _shades(image: Any, name: str) -> np.ndarray:
    """Return pixels of 16 or 32 bits as bytes.

    Floats are read as 0 to 1 if none is larger, else as 0 to 255; integers of 32 bits as 0 to 255,
    else as 0 to 65535, like those of 16 bits.
    """
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()  # nan if any is
    kind, ends = ("floats", [1, 255]) if image.mode == "F" else ("whole numbers", [255, 65535])
    if image.mode.startswith("I;16") or image.format == "PNG":  # its mode is I in an older Pillow
        ends = [65535]
    end = next((end for end in ends if 0 <= low <= high <= end), None)
    if end is None:
        ranges = " or ".join(f"0 to {end}" for end in ends)
        raise UserError(
            f"The {name} has pixels from {low:.6g} to {high:.6g}, but {kind} must lie in {ranges}: "
            "convert it",
            exit_code=1,
        )
    return (pixels * (255 / end)).round().astype(np.uint8)


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
