"""Transparent images: a CLIP sees their colours alone, as CoOp's loader reads them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from ..errors import printable

OPAQUE = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")  # formats without it, which are not opened
THREADS = 8


def transparency_note(paths: Sequence[str]) -> str:
    """Return a note that counts the transparent ones among image files; empty without any."""
    possible = [path for path in paths if not path.lower().endswith(OPAQUE)]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(is_transparent, possible)
        clear = [path for path, answer in zip(possible, answers, strict=True) if answer]
    if not clear:
        return ""
    return printable(
        f"Note: {len(clear):,} of {len(paths):,} images are transparent, such as '{clear[0]}': "
        "the CLIP sees the colours below, often black; put them on the background that you mean"
    )


def is_transparent(path: str) -> bool:
    """Return True if an image file has a pixel that is not opaque; False if it cannot be read."""
    try:
        with Image.open(path) as image:
            possible = image.mode.endswith(("A", "a")) or "transparency" in image.info
            return possible and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    except Exception:  # of many types; whoever reads the image says so
        return False
