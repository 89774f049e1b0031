"""Transforms from an image to what a method takes: Dassl's, as INPUT says, or random views."""

import random
import zlib
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from yacs.config import CfgNode

from ..capabilities.at_test_time import AtTestTime
from ..dassl_parts import dassl
from ..method import Method
from ..running.seeding import seeded

CHAINS, LONGEST = 3, 3  # AugMix: chains of operations that are mixed, operations of a chain
Finish = Callable[[Image.Image], torch.Tensor]


class Squash:
    """A transform that changes the proportions of an image to those of a square.

    A `size` of None keeps the shorter side, so that crops are not enlarged more.
    """

    def __init__(self, size: int | None, interpolation: str):
        self.size, self.mode = size, Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the square."""
        side = min(image.size) if self.size is None else self.size
        return image.resize((side, side), self.mode)


class Steps:
    """Transforms in turn."""

    def __init__(self, *transforms: Any):
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        """Return what the last one makes of an image."""
        for transform in self.transforms:
            image = transform(image)
        return image


def as_resized(transform: Any, cfg: CfgNode, is_train: bool = False) -> Any:
    """Return a transform of Dassl that begins as INPUT.RESIZE says, in any version of Dassl.

    With `squash`, the image is square before Dassl's own steps, so that those of an evaluation
    change nothing, and crops of a training come from the square. A size, as in `squash 346`, is
    that of an image in an evaluation before its centre is cut out.
    """
    how, _, to = cfg.INPUT.get("RESIZE", "shortest").partition(" ")
    if how == "shortest" and (is_train or not to):
        return transform
    size = max(cfg.INPUT.SIZE)
    steps: list[Any] = [Squash(None if is_train else int(to or size), cfg.INPUT.INTERPOLATION)]
    if to and not is_train:
        from torchvision import transforms as T  # slow to import

        if how == "shortest":
            steps = [T.Resize(int(to), T.InterpolationMode(cfg.INPUT.INTERPOLATION))]
        steps.append(T.CenterCrop(size))
    return Steps(*steps, transform)


def plain_transform(cfg: CfgNode) -> Finish:
    """Return the transform of a test image; raises as Dassl's `build_transform`."""
    build = dassl("data.transforms").build_transform
    transform: Finish = as_resized(build(cfg, is_train=False), cfg)
    return transform


class RandomViews:
    """A transform from an image to n views: the plain one, then random crops and flips.

    INPUT has the size, the scale of crops and the normalisation. With `augmix`, each crop is mixed
    with augmentations of it.
    """

    def __init__(self, plain: Finish, cfg: CfgNode, n: int, augmix: bool):
        from torchvision import transforms as T  # slow to import

        given, self.plain, self.n, self.augmix = cfg.INPUT, plain, n, augmix
        crop = T.RandomResizedCrop(tuple(given.SIZE), scale=tuple(given.RRCROP_SCALE))
        self.crop = as_resized(T.Compose([crop, T.RandomHorizontalFlip()]), cfg, is_train=True)
        finish: list[Any] = [T.ToTensor()]
        if "normalize" in given.TRANSFORMS:
            finish.append(T.Normalize(given.PIXEL_MEAN, given.PIXEL_STD))
        self.finish = T.Compose(finish)

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        """Return the views, each (3, H, W)."""
        crops = (self.crop(image) for _ in range(self.n - 1))
        mixed = augmix if self.augmix else lambda crop, finish: finish(crop)
        return [self.plain(image), *(mixed(crop, self.finish) for crop in crops)]


def preprocess_of(method: Method, cfg: CfgNode) -> Callable[..., Any]:
    """Return what makes of an RGB image what a method takes, as in the run's own evaluation."""
    return views_by_content(plain_transform(cfg), method, cfg)


def views_by_content(plain: Finish, method: Method, cfg: CfgNode) -> Callable[..., Any]:
    """Return a transform to what `method.predict` takes of an image without a number.

    RandomViews are drawn from the seed of the run and the pixels of the image. Threads may call it.
    """
    if not isinstance(method, AtTestTime) or method.test_views < 2:
        return plain
    views, lock = RandomViews(plain, cfg, method.test_views, method.test_augmix), Lock()

    def draw(image: Image.Image) -> list[torch.Tensor]:
        with lock, seeded(zlib.crc32(image.tobytes(), max(cfg.SEED, 0))):
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
