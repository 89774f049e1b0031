"""Reads images of any mode as RGB."""

import os.path as osp

import numpy as np
from PIL import Image

from .errors import DataError


def read_image(path):
    """Return the image at `path` as an RGB PIL image.

    As in CoOp's loader, an orientation in its EXIF data is not applied. Raises DataError, which
    names the file, if it is missing, cannot be decoded, or has pixels out of range.
    """
    if not osp.isfile(path):
        raise DataError(f"No image at '{path}': check DATASET.ROOT and the data set's layout")
    try:
        with Image.open(path) as image:
            return decode_image(image, f"image '{path}'")
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of many types
        reason = "it is empty" if not osp.getsize(path) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        raise DataError(f"Cannot decode the image '{path}' ({reason}): replace it") from None


def decode_image(image, name="image"):
    """Return an image that Pillow has opened as `read_image` does; errors call it `name`.

    Raises DataError if pixels are out of range, and what decoders raise, errors of many types.
    """
    if image.format == "EPS":  # Pillow would execute it with Ghostscript
        raise ValueError("PostScript is a program")
    return _to_rgb(image, name)


def _to_rgb(image, name):
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip these
        image = Image.fromarray(_shades(image, name))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _shades(image, name):
    """Return pixels of 16 or 32 bits as bytes.

    Floats are read as 0 to 1 if none is larger, else as 0 to 255. Integers of 32 bits are read as
    0 to 255 if none is larger, else as 0 to 65535, like those of 16 bits.
    """
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()  # nan if any is
    kind, ends = ("floats", [1, 255]) if image.mode == "F" else ("whole numbers", [255, 65535])
    if image.mode.startswith("I;16") or image.format == "PNG":  # its mode is I in an older Pillow
        ends = [65535]
    end = next((end for end in ends if 0 <= low <= high <= end), None)
    if end is None:
        raise DataError(
            f"The {name} has pixels from {low:.6g} to {high:.6g}, but {kind} must lie in "
            f"{' or '.join(f'0 to {end}' for end in ends)}: convert it"
        )
    return (pixels * (255 / end)).round().astype(np.uint8)
