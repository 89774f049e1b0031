"""Reads images of any mode as RGB."""

import math
import os.path as osp
from typing import NamedTuple

import numpy as np
from PIL import Image

from .errors import DataError


class Draft(NamedTuple):
    """A limit to decoding a JPEG at 1/2, 1/4 or 1/8 of its size.

    Only a divisor of both sides is taken: others change the proportions of an image.
    """

    least: int  # pixels that the shorter side keeps: twice those that it is resized to
    most: int = 8  # the greatest divisor

    def of_crops(self, scale):
        """Return that of random crops, which halves at most.

        The smallest crop, `scale` of the area and 4 to 3 in proportion, is not enlarged.
        """
        side = self.least / 2 / math.sqrt(max(scale, 1e-9) * 3 / 4)
        return Draft(max(self.least, math.ceil(side)), 2)

    def divisor(self, width, height):
        """Return the divisor for an image of this size; 1 decodes all pixels."""
        side = min(self.most, min(width, height) // self.least)
        return next(k for k in (8, 4, 2, 1) if k <= max(side, 1) and not (width % k or height % k))


def read_image(path, draft=None):
    """Return the image at `path` as an RGB PIL image; with a Draft, JPEGs may be smaller.

    As in CoOp's loader, an orientation in its EXIF data is not applied. Raises DataError, which
    names the file, if it is missing, cannot be decoded, or has pixels out of range.
    """
    if not osp.isfile(path):
        raise DataError(f"No image at '{path}': check DATASET.ROOT and the data set's layout")
    try:
        with Image.open(path) as image:
            return decode_image(image, draft, f"image '{path}'")
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of many types
        reason = "it is empty" if not osp.getsize(path) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        raise DataError(f"Cannot decode the image '{path}' ({reason}): replace it") from None


def decode_image(image, draft=None, name="image"):
    """Return an image that Pillow has opened as `read_image` does; errors call it `name`.

    Raises DataError if pixels are out of range, and what decoders raise, errors of many types.
    """
    if image.format == "EPS":  # Pillow would execute it with Ghostscript
        raise ValueError("PostScript is a program")
    if draft is not None and image.format in ("JPEG", "MPO"):
        _shrink(image, draft.divisor(*image.size))
    return _to_rgb(image, name)


def _shrink(image, divisor):
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))


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
    if kind == "whole numbers":
        pixels = pixels.astype(np.float64)
    return (pixels * (255 / end)).round().astype(np.uint8)
