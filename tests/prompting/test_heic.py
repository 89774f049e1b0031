"""HEIC, which iPhones write by default."""

import numpy as np
import pillow_heif
import pytest
from dassl.utils import read_image as of_dassl
from PIL import ExifTags, Image

from trainers.prompting.images import class_folders, image_files


def photo(folder):
    """Write a photo that is to be turned, and return its path and its pixels as they are stored."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = folder / "IMG_1.HEIC"
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(path, quality=100, exif=exif.tobytes())
    return path, pixels


def test_a_photo_is_read_and_upright(tmp_path, monkeypatch):
    path, pixels = photo(tmp_path)
    assert class_folders.is_image(path.name)
    image = image_files.read_single(str(path))
    assert image.size == (64, 96)
    assert np.abs(np.asarray(image, float) - np.rot90(pixels, -1)).mean() < 8
    assert of_dassl(str(path)).mode == "RGB"
    monkeypatch.setattr(image_files, "UNREAD", class_folders.HEIC)  # where the package is missing
    why = image_files.why_unread(str(path), ValueError("unknown"))
    assert why == "it is HEIC: `pip install pillow-heif`, or convert it to JPEG"


def test_the_page_reads_a_photo(tmp_path):
    pytest.importorskip("starlette", reason="starlette is not installed")
    from trainers.prompting.use import page

    path, _ = photo(tmp_path)
    assert image_files.read_single(path, page.FORMATS).size == (64, 96)
