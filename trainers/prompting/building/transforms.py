"""Transforms from an image to what a method takes: one input, or random views."""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps

from ..backbones import family_of
from ..capabilities.at_test_time import AtTestTime
from ..method import Method
from ..running.seeding import seeded

CHAINS, LONGEST = 3, 3  # AugMix: chains of operations that are mixed, operations of a chain
Finish = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """How a CLIP reads images: INPUT of a config, as far as an evaluation reads it.

    Attributes:
        size: of an input (3, size, size).
        mean, std: of each channel.
        interpolation, resize: as in `Family`.
        normal: False without `normalize` in INPUT.TRANSFORMS: they then have values from 0 to 1.
        crops: INPUT.RRCROP_SCALE, of views.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize: str = "shortest"
    normal: bool = True
    crops: tuple[float, ...] = (0.08, 1.0)

    @classmethod
    def of(cls, clip_model: Any, **more: Any) -> Self:
        """Return those of a CLIP."""
        one, size = family_of(clip_model), clip_model.visual.input_resolution
        return cls(size, tuple(one.mean), tuple(one.std), one.interpolation, one.resize, **more)

    @classmethod
    def in_config(cls, given: Any) -> Self:
        """Return those that a node INPUT says."""
        normal, crops = "normalize" in given.TRANSFORMS, tuple(given.RRCROP_SCALE)
        mean, std = tuple(given.PIXEL_MEAN), tuple(given.PIXEL_STD)
        return cls(max(given.SIZE), mean, std, given.INTERPOLATION, given.RESIZE, normal, crops)


class Squashed:
    """A transform of a training whose crops are of the image with both sides of one length."""

    def __init__(self, transform: Any, interpolation: str):
        self.transform, self.mode = transform, Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> Any:
        """Return what the transform makes of the square, no larger than the image."""
        side = min(image.size)
        return self.transform(image.resize((side, side), self.mode))


def of_training(transform: Any, images: Images) -> Any:
    """Return a transform of a training that begins as INPUT.RESIZE says."""
    squash = images.resize.startswith("squash")
    return Squashed(transform, images.interpolation) if squash else transform


class Plain:
    """The transform of a test image to (3, H, W), without torchvision, which is slow to import.

    Its pixels are those of torchvision's steps and of Dassl's, bit for bit.
    """

    def __init__(self, images: Images):
        self.images = images
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (images.mean, images.std))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the centre of an image, whose shorter side or both sides are as INPUT.RESIZE says.

        A size in it, as in `squash 346`, is that of the sides before the centre is cut out.
        """
        how, _, to = self.images.resize.partition(" ")
        size, side = self.images.size, int(to or self.images.size)
        shorter, mode = min(image.size), Image.Resampling[self.images.interpolation.upper()]
        w, h = (side if how == "squash" else int(side * x / shorter) for x in image.size)
        left, top = (round((x - size) / 2) for x in (w, h))
        image = image.resize((w, h), mode).crop((left, top, left + size, top + size))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        x = x.to(torch.get_default_dtype()).div(255)
        return (x - self.mean.to(x)).div_(self.std.to(x)) if self.images.normal else x


class RandomViews:
    """A transform from an image to n views: the plain one, then random crops and flips.

    With `augmix`, each crop is mixed with augmentations of it.
    """

    def __init__(self, plain: Finish, images: Images, n: int, augmix: bool):
        from torchvision import transforms as T  # slow to import

        self.plain, self.n, self.augmix = plain, n, augmix
        crop = T.RandomResizedCrop((images.size, images.size), scale=images.crops)
        self.crop = of_training(T.Compose([crop, T.RandomHorizontalFlip()]), images)
        normalize = [T.Normalize(images.mean, images.std)] * images.normal
        self.finish = T.Compose([T.ToTensor(), *normalize])

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        """Return the views, each (3, H, W)."""
        crops = (self.crop(image) for _ in range(self.n - 1))
        mixed = augmix if self.augmix else lambda crop, finish: finish(crop)
        return [self.plain(image), *(mixed(crop, self.finish) for crop in crops)]


def preprocess_of(method: Method, images: Images, seed: int) -> Callable[..., Any]:
    """Return what makes of an RGB image what `method.predict` takes, as in the run's evaluation.

    RandomViews are drawn from the seed of the run and the pixels of the image. Threads may call it.
    """
    plain = Plain(images)
    if not isinstance(method, AtTestTime) or method.test_views < 2:
        return plain
    views, lock = RandomViews(plain, images, method.test_views, method.test_augmix), Lock()

    def draw(image: Image.Image) -> list[torch.Tensor]:
        with lock, seeded(zlib.crc32(image.tobytes(), max(seed, 0))):
            return views(image)

    return draw


def augmix(image: Image.Image, finish: Finish) -> torch.Tensor:
    """Return the AugMix of an image (Hendrycks et al., ICLR 2020; arXiv:1912.02781) at severity 1.

    m x + (1 - m) sum_i w_i x_i, with w from Dirichlet(1, 1, 1), m from Beta(1, 1), and x_i the
    image after a chain of one to three operations.
    """
    weights, m = np.random.dirichlet([1.0] * CHAINS), random.random()
    mixed = m * finish(image)
    for w in weights:
        changed = image
        for _ in range(random.randint(1, LONGEST)):
            changed = random.choice(OPERATIONS)(changed)
        mixed += (1 - m) * w * finish(changed)
    return mixed


def _strength(most: float) -> float:
    """Return a random strength, from 1% to 10% of the greatest."""
    return random.uniform(0.01, 0.1) * most


def _move(image: Image.Image, at: int, amount: float) -> Image.Image:
    """Apply an affine map that differs from the identity in one of its six numbers."""
    numbers = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    numbers[at] = random.choice((-1, 1)) * amount
    map_ = Image.Transform.AFFINE
    return image.transform(image.size, map_, numbers, resample=Image.Resampling.BILINEAR)


def _rotate(image: Image.Image) -> Image.Image:
    degrees = random.choice((-1, 1)) * int(_strength(30))
    return image.rotate(degrees, resample=Image.Resampling.BILINEAR)


OPERATIONS: list[Callable[[Image.Image], Image.Image]] = [
    ImageOps.autocontrast,
    ImageOps.equalize,
    lambda image: ImageOps.posterize(image, 4 - int(_strength(4))),
    _rotate,
    lambda image: ImageOps.solarize(image, 256 - int(_strength(256))),
    lambda image: _move(image, 1, _strength(0.3)),  # sheared
    lambda image: _move(image, 3, _strength(0.3)),
    lambda image: _move(image, 2, int(_strength(image.width / 3))),  # shifted
    lambda image: _move(image, 5, int(_strength(image.height / 3))),
]
