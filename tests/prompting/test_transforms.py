"""What a run makes of a test image, without torchvision."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from trainers.prompting.building.transforms import Images, Plain, of_training

IMAGES = Images(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic")


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(24, 16), (33, 97), (8, 8), (9, 11), (5, 7), (8, 301)])
def test_pixels_are_those_of_torchvision(mode, shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    for resize, to in {
        "shortest": 8, "shortest 12": 12, "squash": (8, 8), "squash 13": (13, 13),
    }.items():  # fmt: skip
        images = Images(8, IMAGES.mean, IMAGES.std, mode, resize)
        steps = [T.Resize(to, T.InterpolationMode(mode)), T.CenterCrop(8), T.ToTensor()]
        wanted = T.Compose([*steps, T.Normalize(images.mean, images.std)])(image)
        assert torch.equal(Plain(images)(image), wanted)
        plain = pickle.loads(pickle.dumps(Plain(images)))  # as workers that are started anew need
        assert torch.equal(plain(image), wanted)
    bare = Plain(Images(8, IMAGES.mean, IMAGES.std, mode, normal=False))(image)
    assert 0 <= bare.min() <= bare.max() <= 1


@pytest.mark.parametrize(
    ("resize", "size"),
    [("shortest", (90, 60)), ("shortest 12", (90, 60)), ("squash", (60, 60)),
     ("squash 12", (60, 60))],
)  # fmt: skip
def test_crops_of_a_training_are_of_the_whole_image_or_of_the_square(resize, size):
    images = Images(8, IMAGES.mean, IMAGES.std, "bicubic", resize)
    assert of_training(lambda image: image.size, images)(Image.new("RGB", (90, 60))) == size
