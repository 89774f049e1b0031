"""Loaders of images of a run in other orders, views or numbers.

What they draw depends only on the seed of the run and the number of the image, and takes nothing
from the run's random numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from ..building.transforms import Images, Plain, RandomViews, of_training
from ..capabilities.at_test_time import AtTestTime, adapts
from ..errors import need
from ..images.image_files import upright
from ..method import Method
from ..running.seeding import seeded


class SeededImages(Dataset):
    """Images of a data set in a given order, with a fixed seed per augmentation.

    So augmentations depend only on the seed, and draw nothing from the run's random numbers. Item i
    is the image at row i of `rows`, which may be there several times; every second pass over the
    images is mirrored if `mirrored`.
    """

    def __init__(self, images: Any, rows: Sequence[int], seed: int, mirrored: bool = False):
        generator = torch.Generator().manual_seed(seed)
        self.images, self.rows, self.mirrored = images, rows, mirrored
        self.seeds = torch.randint(2**32, (len(rows),), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Return an item of the data set."""
        with seeded(self.seeds[i]):
            item: dict[str, Any] = self.images[self.rows[i]]
        if self.mirrored and i // len(self.images) % 2:
            item["img"] = item["img"].flip(-1)
        return item


class GeneratedLoader:
    """A loader of `count` batches, which `generate` yields anew in each epoch."""

    stream: Any = None  # of test images, as `arranged_loader` sets it

    def __init__(self, generate: Callable[[], Iterable[Any]], count: int):
        self.generate, self.count = generate, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter(self.generate())


def loader_like(loader: DataLoader, images: Dataset, **how: Any) -> DataLoader:
    """Return a loader of other images, in order, with the workers of a given one.

    It takes nothing from the run's random numbers. `how` are arguments of `DataLoader` on its
    batches.
    """
    return DataLoader(
        images,
        num_workers=loader.num_workers,
        multiprocessing_context=loader.multiprocessing_context,
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
        **how,
    )


def resize_in(manager: Any, cfg: CfgNode) -> None:
    """Read images of a `DataManager` of Dassl as INPUT.RESIZE says, and turn them if asked."""
    if cfg.INPUT.RESIZE != "shortest" and cfg.VERBOSE:
        print(f"Before its transform, each image is resized: INPUT.RESIZE {cfg.INPUT.RESIZE}")
    given, seen = Images.in_config(cfg.INPUT), set[int]()
    for part in ("train_loader_x", "train_loader_u", "val_loader", "test_loader"):
        loader = getattr(manager, part)
        if loader is not None and id(loader.dataset) not in seen:
            seen.add(id(loader.dataset))
            images = loader.dataset
            if cfg.INPUT.UPRIGHT:
                need(
                    hasattr(images, "upright"),
                    "INPUT.UPRIGHT is True, but the installed Dassl does not turn images as their "
                    "EXIF data say: set it to False if all are upright, or use dassl-lite",
                )
                images.upright = upright
            if part.startswith("train"):
                images.transform = of_training(images.transform, given)
            else:
                images.transform = Plain(given)


def prepare_loader(loader: DataLoader, method: Method, cfg: CfgNode) -> DataLoader:
    """Return a loader of plain images, in order, as `method.predict` takes them.

    `test_views`, `test_augmix` and `stream` say what is needed; for most methods it is the same
    one.
    """
    if not (isinstance(method, AtTestTime) and adapts(method)):
        return loader
    images: Any = copy(loader.dataset)
    seed = max(cfg.SEED, 0)
    if method.test_views > 1:
        given = Images.in_config(cfg.INPUT), method.test_views, method.test_augmix
        images.transform = RandomViews(images.transform, *given)
    order: Any = range(len(images))
    if method.stream:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = SeededImages(images, range(len(images)), seed)
    return loader_like(loader, drawn, sampler=order, batch_size=loader.batch_size)
