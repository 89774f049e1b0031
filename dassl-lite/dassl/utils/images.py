"""Reading an image of any mode as RGB."""

import os.path as osp

import numpy as np
from PIL import Image

from .errors import DataError


def read_image(path):
    """The image at `path` as an RGB PIL image.

    Raises DataError, naming the file, when it is missing or cannot be decoded.
    """
    if not osp.isfile(path):
        raise DataError(f"No image at '{path}': check DATASET.ROOT and the data set's layout")
    try:
        with Image.open(path) as image:
            return _to_rgb(image)
    except Exception as error:  # decoders raise nearly every type there is
        reason = "it is empty" if not osp.getsize(path) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        raise DataError(f"Cannot decode the image '{path}' ({reason}): replace it") from None


def _to_rgb(image):
    if image.mode.startswith("I"):  # 16 bits a pixel; convert() would clip them to 8
        pixels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
