"""HEIC, which iPhones write by default."""

import numpy as np
import pillow_heif
from dassl.utils import read_image as of_dassl
from PIL import Image

from trainers.prompting.advice import images as sources
from trainers.prompting.images import class_folders, image_files
from trainers.prompting.use import page


def test_a_photo_is_read_and_upright(tmp_path, monkeypatch):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    path = tmp_path / "IMG_1.HEIC"
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(path, quality=100, exif=exif.tobytes())
    assert class_folders.is_image(path.name) and "HEIF" in page.FORMATS
    image = sources.read_image(str(path))
    assert image.size == (64, 96)
    assert np.abs(np.asarray(image, float) - np.rot90(pixels, -1)).mean() < 8
    assert of_dassl(str(path)).mode == "RGB"
    assert page._decode(path.read_bytes(), lambda x: x.size) == image.size
    monkeypatch.setattr(image_files, "UNREAD", class_folders.HEIC)  # where the package is missing
    why = image_files.why_unread(str(path), ValueError("unknown"))
    assert why == "it is HEIC: `pip install pillow-heif`, or convert it to JPEG"
