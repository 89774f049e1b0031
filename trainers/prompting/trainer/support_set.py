"""The support of a method: features of the training images, computed before the first step.

Letters: n training images, each seen P times under other augmentations; D width of a feature.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..capabilities.mirrored import Mirrored
from ..capabilities.one_view import OneView
from ..checkpoint.provenance import load_initial
from ..errors import UserError, need
from ..method import Method
from ..running.memory import GIB, memory_budget
from ..running.precision import Precision

CHUNK = 64  # images that are encoded at a time
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images (B, 3, H, W) and labels (B,)


class Passes(Dataset):
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


@contextmanager
def seeded(seed: int):
    """Seed the generators of the CPU inside the block; as dassl-lite's `local_seed`."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def take_support(trainer: Any, anew: bool) -> Any:
    """Give the method of a `PromptTrainer` the features of the training images, if it wants them.

    Args:
        trainer: before its first step.
        anew: False if a checkpoint already has the state that the method derives from them.

    Returns:
        The loader of its steps: that of the trainer, or one of these features.
    """
    method, cfg = trainer.method, trainer.cfg
    key = "SEARCH_HP" if "SEARCH_HP" in method.defaults else "SEARCH"
    if method.searches and trainer.validation is None:
        raise UserError(
            f"{type(method).__name__} chooses settings on validation images, but "
            f"{cfg.DATASET.NAME} has none besides its test images: switch its search off "
            f"({key} False), or hold training images out (DATASET.VALIDATION_SHOTS 4)"
        )
    if method.searches and cfg.TEST.FINAL_MODEL == "best_val":
        raise UserError(
            f"{type(method).__name__} chooses settings after the last epoch: set TEST.FINAL_MODEL "
            f"last_step, or switch its search off ({key} False)"
        )
    passes = method.support_passes
    if not passes or not (anew or method.trains_on_support):
        return trainer.train_loader_x
    mirrored = isinstance(method, Mirrored)
    need(
        not (mirrored and passes > 1 and cfg.DATASET.get("FEATURES")),
        f"{type(method).__name__} mirrors training images, but a file of features has only rows: "
        "set IMAGE_AUGMENTATION none",
    )
    loader = trainer.dm.train_loader_x
    images = copy(loader.dataset)
    images.k_tfm = 1  # one view
    by_view = isinstance(method, OneView)
    if not by_view or method.searches:
        check_room(method, len(images), memory_budget(cfg.TRAINER.MEMORY_BUDGET, trainer.device))
    seen = Passes(images, [*range(len(images))] * passes, max(cfg.SEED, 0), mirrored)
    load = partial(loader_like, loader, batch_size=cfg.DATALOADER.TEST.BATCH_SIZE)
    if by_view:
        views = Encoded(method, seen, trainer.precision, load)
        method.take_views(views, views.labels)
        return ViewOfEpoch(views, trainer)
    features, labels = encode(method, _of_loader(load(seen)), trainer.precision)
    print(f"Support: features of {len(images):,} training images, each seen {passes} times")
    if anew:
        method.validation_follows = method.searches
        _give(method, features, labels, passes)
        load_initial(cfg, method, trainer.dm.dataset)
    if not method.trains_on_support:
        return trainer.train_loader_x
    size, batches = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, len(trainer.train_loader_x)
    return Rows(features, labels, size, batches)


def take_validation(trainer: Any) -> None:
    """Give the method of a `PromptTrainer` the validation images, if it wants them."""
    method = trainer.method
    if method.searches:
        method.take_validation(*encode(method, _of_loader(trainer.validation), trainer.precision))


class Encoded:
    """The views of the training images as features (n, D), each encoded when it is read.

    Views are kept if the method searches. `seen` has the images in all views; `load` makes a loader
    of images.

    Attributes:
        labels: (n,).
    """

    def __init__(
        self,
        method: Method,
        seen: Passes,
        precision: Precision,
        load: Callable[[Dataset], DataLoader],
    ):
        self.method, self.seen, self.precision, self.load = method, seen, precision, load
        labels = [item.label for item in seen.images.data_source]
        self.labels = torch.tensor(labels, device=precision.device)
        self.kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.seen) // len(self.labels)

    def __getitem__(self, view: int) -> torch.Tensor:
        """Return a view, from 0."""
        if view in self.kept:
            return self.kept[view]
        n = len(self.labels)
        loader = self.load(Subset(self.seen, range(view * n, view * n + n)))
        features, _ = encode(self.method, _of_loader(loader), self.precision)
        if self.method.searches:
            self.kept[view] = features
        return features


class ViewOfEpoch:
    """A loader of one batch, all training images in the view of the trainer's epoch."""

    def __init__(self, views: Encoded, trainer: Any):
        self.views, self.trainer = views, trainer

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        view = (self.trainer.epoch + 1) % len(self.views)
        yield {"img": self.views[view], "label": self.views.labels}


class Rows:
    """A loader of features in random order, which replaces the loader of images.

    Args:
        features: (P n, D).
        labels: (P n,).
        size: B, of a batch; all rows if there are fewer.
        batches: the most that an epoch has; fewer if the rows do not suffice.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, size: int, batches: int):
        self.features, self.labels = features, labels
        self.size = min(size, len(labels))
        self.batches = min(batches, -(-len(labels) // self.size))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        order = torch.randperm(len(self.labels))[: self.batches * self.size]
        for rows in order.to(self.labels.device).split(self.size):
            yield {"img": self.features[rows], "label": self.labels[rows]}


def check_room(method: Method, n: int, budget: int) -> None:
    """Raise UserError if the support, of n training images, does not fit into a budget of bytes."""
    passes = method.support_passes
    needed = 4 * passes * n * method.row_width
    if needed > budget:
        raise UserError(
            f"{type(method).__name__} keeps features of {n:,} training images, each seen {passes} "
            f"times, which take {needed / GIB:.2f} GiB, but MEMORY_BUDGET leaves "
            f"{budget / GIB:.2f} GiB: raise it, or lower the number of passes or of images"
        )


@torch.no_grad()
def encode(
    method: Method, batches: Batches, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (., D), float32, not normalised, and labels (.,) on the method's device."""
    training = method.training
    method.eval()
    with precision.autocast():
        method.text()  # cached: the method may read them outside of autocast
    features, labels = [], []
    for images, label in batches:
        with precision.autocast():
            features.append(method.clip_features(images.to(precision.device)))
        labels.append(label.to(precision.device))
    method.train(training)
    return torch.cat(features), torch.cat(labels)


def _of_loader(loader: Any) -> Batches:
    return ((batch["img"], batch["label"]) for batch in loader)


def _give(method: Method, features: torch.Tensor, labels: torch.Tensor, passes: int) -> None:
    """Give a method its support: features (P n, D) and labels (P n,), one pass after another."""
    n = len(labels) // passes
    method.make_room(n)
    method.take_support(features.unflatten(0, (passes, n)), labels[:n])


def given_support(method: Method, support: Mapping[str, torch.Tensor]) -> None:
    """Give a method its support from images in memory.

    Args:
        method: one that takes a support.
        support: `images`, (n, 3, H, W) or (P, n, 3, H, W), normalised, or their features, (n, D) or
            (P, n, D), and `labels`, (n,).
    """
    name, W = type(method).__name__, method.row_width
    if not method.support_passes:
        raise UserError(f"{name} takes no support: leave `support` out")
    images, labels = (support.get(key) for key in ("images", "labels"))
    if not (torch.is_tensor(images) and torch.is_tensor(labels) and len(support) == 2):
        raise UserError(
            f"The support of {name} has {', '.join(map(repr, support)) or 'nothing'}: give it two "
            "tensors, `images` (n, 3, H, W) or (passes, n, 3, H, W), and `labels` (n,)"
        )
    if images.dim() in (2, 4):
        images = images[None]
    n, K = len(labels), method.num_classes
    known = images.dim() == 5 or images.shape[2:] == (W,)
    fits = known and labels.shape == images.shape[1:2] and n > 0 < len(images)
    if not fits or labels.is_floating_point():
        raise UserError(
            f"The support of {name} has images {tuple(support['images'].shape)} and labels "
            f"{tuple(labels.shape)} of {labels.dtype}, but must have (n, 3, H, W) or "
            f"(passes, n, 3, H, W), or features of them (n, {W}), and n whole numbers"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < K:
        raise UserError(
            f"The labels of the support of {name} range from {int(labels.min())} to "
            f"{int(labels.max())} but must be from 0 to {K - 1}, of {K} classes"
        )
    passes = len(images)
    every = images.flatten(0, 1).split(CHUNK), labels.repeat(passes).split(CHUNK)
    precision = Precision("fp32", method.device)
    features, labels = encode(method, zip(*every, strict=True), precision)
    _give(method, features, labels, passes)
