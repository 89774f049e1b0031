"""INPUT.DRAFT: large JPEGs are decoded at 1/2, 1/4 or 1/8, where that is enough."""

import numpy as np
import pytest
import torch
from dassl.data import DatasetWrapper
from dassl.data.datasets import Datum
from dassl.data.transforms.transforms import Transform, build_transform
from dassl.utils import Draft, UserError, read_image
from PIL import Image
from torchvision.transforms import RandomResizedCrop


@pytest.fixture(scope="module")
def photo():
    """A photograph of 160 x 128: smooth, with noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
    pixels = np.asarray(coarse.resize((160, 128), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((pixels + rng.integers(-9, 10, pixels.shape)).clip(0, 255).astype("u1"))


@pytest.mark.parametrize(
    ("size", "least", "divisor"),
    [
        ((4000, 3000), 375, 8), ((4000, 3000), 376, 4), ((3000, 4000), 448, 4),
        ((4000, 3000), 1500, 2), ((4000, 3000), 1501, 1), ((8000, 400), 51, 4), ((16, 16), 2, 8),
        ((4004, 3004), 8, 4), ((4002, 3004), 8, 2), ((4001, 3000), 8, 1), ((1, 1), 1, 1),
    ],
)  # fmt: skip
def test_a_divisor_of_both_sides_that_keeps_enough(size, least, divisor):
    assert Draft(least).divisor(*size) == divisor
    assert Draft(least, 2).divisor(*size) == min(divisor, 2)


@pytest.mark.parametrize("scale", [0.08, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (1, 9)])
def test_no_crop_of_a_halved_image_is_enlarged(scale, shape):
    draft = Draft(2 * 24).of_crops(scale)
    width, height = (2 * draft.least * side for side in shape)  # the smallest that is halved
    assert draft.divisor(width, height) == 2 and draft.divisor(width - 2, height - 2) == 1
    halved = torch.empty(1, height // 2, width // 2)
    crops = [RandomResizedCrop.get_params(halved, (scale, scale), (3 / 4, 4 / 3))[2:]]
    crops += [RandomResizedCrop.get_params(halved, (scale, scale), (3 / 4, 3 / 4))[2:]]
    assert min(map(min, crops)) >= 24


def test_the_draft_of_each_transform(make_cfg):
    def draft(*opts, is_train=False):
        return build_transform(make_cfg("INPUT.SIZE", (8, 12), *opts), is_train).draft

    on = "INPUT.DRAFT", True
    assert draft() is None and draft(is_train=True) is None
    assert draft(*on) == Draft(24, 8)
    assert draft(*on, is_train=True) == Draft(49, 2)  # 12 / sqrt(0.08 * 3 / 4)
    assert draft(*on, "INPUT.RRCROP_SCALE", (0.5, 1.0), is_train=True) == Draft(24, 2)
    assert draft(*on, "INPUT.RRCROP_SCALE", (0.0, 1.0), is_train=True).least > 10_000
    assert draft(*on, "INPUT.TRANSFORMS", ["normalize"], is_train=True) == Draft(24, 2)
    cropped = *on, "INPUT.TRANSFORMS", ["random_crop", "normalize"]
    assert draft(*cropped) == Draft(24, 8)
    with pytest.raises(UserError, match=r"DRAFT is True, but INPUT.TRANSFORMS random_crop takes"):
        draft(*cropped, is_train=True)
    for is_train in (True, False):
        with pytest.raises(UserError, match=r"INPUT.INTERPOLATION nearest takes pixels as they"):
            draft(*on, "INPUT.INTERPOLATION", "nearest", is_train=is_train)
    assert build_transform(make_cfg(*on, "INPUT.NO_TRANSFORM", True)) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"exif": True}])
def test_jpegs_of_every_kind(photo, tmp_path, mode, how):
    path = str(tmp_path / "photo.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, which is not applied
    photo.convert(mode).save(path, quality=95, **(how | ({"exif": exif} if "exif" in how else {})))
    full = read_image(path)
    for least, divisor in ((17, 4), (16, 8), (64, 2)):
        image = read_image(path, Draft(least))
        assert image.mode == "RGB" and image.size == (160 // divisor, 128 // divisor)
        apart = np.asarray(image).astype(int) - np.asarray(full.reduce(divisor))
        assert abs(apart).mean() < 1.5
    assert read_image(path, Draft(65)).tobytes() == full.tobytes()


def test_all_else_is_decoded_as_before(photo, tmp_path):
    for name in ("png", "bmp", "webp", "gif", "tiff"):
        path = str(tmp_path / f"photo.{name}")
        photo.save(path)
        assert read_image(path, Draft(1)).tobytes() == read_image(path).tobytes()
    path = str(tmp_path / "odd.jpg")
    photo.crop((0, 0, 159, 127)).save(path)
    assert read_image(path, Draft(1)).tobytes() == read_image(path).tobytes()
    path = str(tmp_path / "two.mpo")  # of a phone: the first frame
    photo.save(path, "MPO", save_all=True, append_images=[photo.crop((0, 0, 80, 64))])
    assert read_image(path, Draft(16)).size == (20, 16)
    path = str(tmp_path / "tiny.jpg")
    Image.new("RGB", (1, 1)).save(path)
    assert read_image(path, Draft(1)).size == (1, 1)


@pytest.mark.parametrize("is_train", [True, False])
def test_loaders_decode_what_their_transform_takes(photo, tmp_path, make_cfg, is_train):
    path = str(tmp_path / "photo.jpg")
    photo.save(path)
    items = [Datum(path, 0, 0, "photo")]

    def read(transform):
        data = DatasetWrapper(make_cfg(), items, transform, is_train)
        first, again = data[0]["img"], data[0]["img"]  # of training the second is from the cache
        assert first.size == again.size
        return first.size

    assert read(Transform([])) == read(lambda image: image) == read(None) == (160, 128)
    assert read(Transform([], Draft(16))) == (20, 16)
