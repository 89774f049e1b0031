"""Reading an image of any mode as RGB."""

import os.path as osp

import numpy as np
from PIL import Image

from .errors import DataError


def read_image(path):
    """The image at `path` as an RGB PIL image.

    Its pixels come as they are stored: an orientation in its EXIF data is not applied, as in CoOp's
    loader. Raises DataError, naming the file, when it is missing, cannot be decoded, or has floats
    outside 0 to 255 for pixels.
    """
    if not osp.isfile(path):
        raise DataError(f"No image at '{path}': check DATASET.ROOT and the data set's layout")
    try:
        with Image.open(path) as image:
            return _to_rgb(image, path)
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly every type there is
        reason = "it is empty" if not osp.getsize(path) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        raise DataError(f"Cannot decode the image '{path}' ({reason}): replace it") from None


def _to_rgb(image, path):
    if image.mode.startswith("I"):  # 16 bits a pixel; convert() would clip them to 8
        pixels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(_shades(np.asarray(image), path))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _shades(pixels, path):
    """Floats as bytes: from 0 to 1 when none is larger, else from 0 to 255."""
    low, high = pixels.min(), pixels.max()  # nan if any is
    if not 0 <= low <= high <= 255:
        raise DataError(
            f"The image '{path}' has pixels from {low:g} to {high:g}, but floats must lie in 0 to 1"
            " or 0 to 255: convert it"
        )
    return (pixels * (255 if high <= 1 else 1)).round().astype(np.uint8)
