"""The support of a method: features of the training images, computed before the first step.

Letters: n training images, each seen P times under other augmentations; D width of a feature.
"""

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..building.support import Batches, encode, give_support
from ..capabilities.mirrored import Mirrored
from ..capabilities.one_view import OneView
from ..checkpoint.provenance import load_initial
from ..errors import UserError, need
from ..method import Method
from ..running.memory import GIB, memory_budget
from ..running.precision import Precision
from .loaders import GeneratedLoader, SeededImages, loader_like


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
    seen = SeededImages(images, [*range(len(images))] * passes, max(cfg.SEED, 0), mirrored)
    load = partial(loader_like, loader, batch_size=cfg.DATALOADER.TEST.BATCH_SIZE)
    if by_view:
        views = EncodedViews(method, seen, trainer.precision, load)
        method.take_views(views, views.labels)

        def view_of_epoch() -> Iterator[dict[str, torch.Tensor]]:
            yield {"img": views[(trainer.epoch + 1) % len(views)], "label": views.labels}

        return GeneratedLoader(view_of_epoch, 1)
    features, labels = encode(method, _of_loader(load(seen)), trainer.precision)
    print(f"Support: features of {len(images):,} training images, each seen {passes} times")
    if anew:
        method.validation_follows = method.searches
        give_support(method, features, labels, passes)
        load_initial(cfg, method, trainer.dm.dataset)
    if not method.trains_on_support:
        return trainer.train_loader_x
    size = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    return shuffled_rows(features, labels, size, len(trainer.train_loader_x))


def take_validation(trainer: Any) -> None:
    """Give the method of a `PromptTrainer` the validation images, if it wants them."""
    method = trainer.method
    if method.searches:
        method.take_validation(*encode(method, _of_loader(trainer.validation), trainer.precision))


class EncodedViews:
    """The views of the training images as features (n, D), each encoded when it is read.

    Views are kept if the method searches. `seen` has the images in all views; `load` makes a loader
    of images.

    Attributes:
        labels: (n,).
    """

    def __init__(
        self,
        method: Method,
        seen: SeededImages,
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


def shuffled_rows(
    features: torch.Tensor, labels: torch.Tensor, size: int, most: int
) -> GeneratedLoader:
    """Return a loader of features (P n, D) with labels (P n,) in random order.

    Batches have `size` rows, or all if there are fewer; an epoch has at most so many batches.
    """
    size = min(size, len(labels))
    count = min(most, -(-len(labels) // size))

    def generate() -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(len(labels))[: count * size]
        for rows in order.to(labels.device).split(size):
            yield {"img": features[rows], "label": labels[rows]}

    return GeneratedLoader(generate, count)


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


def _of_loader(loader: Any) -> Batches:
    return ((batch["img"], batch["label"]) for batch in loader)
