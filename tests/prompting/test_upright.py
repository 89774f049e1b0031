"""Own images are seen as the orientation in their EXIF data says, wherever they are read."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from dassl.data.data_manager import DatasetWrapper
from dassl.data.datasets import Datum
from dassl.utils import read_image
from PIL import ExifTags, Image, ImageOps

from recipe.settings import _defaults
from trainers.prompting import UserError
from trainers.prompting.images.image_files import check_image, read_single, upright
from trainers.prompting.trainer.loaders import resize_in
from trainers.prompting.use.run import Run

ORIENTATION = ExifTags.Base.Orientation
ODD = [0, 9, "6", None]


def photo(path, tag):
    """Write an image whose four corners differ, with an orientation; return its pixels."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12], pixels[:8, 12:], pixels[8:, :12] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    image, exif = Image.fromarray(pixels), Image.Exif()
    if isinstance(tag, str):  # which Pillow does not write
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack(
            "<HHI4sI", ORIENTATION, 2, 2, tag.encode(), 0
        )
    elif tag is not None:
        exif[ORIENTATION] = tag
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return pixels


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", [*range(1, 9), *ODD])
def test_all_orientations(tag, suffix, tmp_path):
    if suffix == "tif" and tag == "6":
        pytest.skip("Pillow does not write it")
    path = tmp_path / f"a.{suffix}"
    stored = photo(path, tag)
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image) if tag not in ODD else image, float)
    run = Run(*[None] * 10)
    for image in (read_single(str(path)), run.read(path), upright(run.read(path))):
        assert np.abs(np.asarray(image, float) - wanted).max() < 3
    assert wanted.shape == ((24, 16, 3) if tag in (5, 6, 7, 8) else stored.shape)
    published = wanted.shape[1::-1] if suffix == "tif" else (24, 16)  # Pillow turns TIFF itself
    assert read_image(str(path)).size == published


@pytest.mark.parametrize("cache", [0, 0.01])
@pytest.mark.parametrize("on", [True, False])
def test_a_training_turns_them_if_its_settings_say_so(on, cache, tmp_path):
    photo(tmp_path / "a.png", 6)
    cfg = _defaults()
    cfg.VERBOSE, cfg.INPUT.UPRIGHT = False, on
    cfg.DATALOADER.CACHE_GIB, cfg.DATALOADER.NUM_WORKERS = cache, 0
    images = DatasetWrapper(cfg, [Datum(str(tmp_path / "a.png"))], is_train=True)
    names = ("train_loader_x", "train_loader_u", "val_loader", "test_loader")
    manager = SimpleNamespace(**dict.fromkeys(names), train=None)
    manager.train_loader_x = SimpleNamespace(dataset=images)
    resize_in(manager, cfg)
    for _ in range(2):  # the second one is from the cache
        assert images[0]["img"].size == ((16, 24) if on else (24, 16))


def test_a_dassl_that_does_not_turn_them_is_refused():
    loader = SimpleNamespace(dataset=SimpleNamespace(transform=None))
    cfg = _defaults()
    cfg.INPUT.UPRIGHT = True
    with pytest.raises(UserError, match="INPUT.UPRIGHT is True, but the installed Dassl does not"):
        resize_in(SimpleNamespace(train_loader_x=loader), cfg)


@pytest.mark.parametrize("size, thin", [((1, 100), False), ((1, 101), True), ((404, 4), True)])
def test_a_picture_beyond_a_hundred_to_one_is_refused(size, thin):
    image = Image.new("RGB", size)
    image.tile = []
    if thin:
        with pytest.raises(UserError, match="pixels: cut it to less than 100:1"):
            check_image(image)
    else:
        check_image(image)
