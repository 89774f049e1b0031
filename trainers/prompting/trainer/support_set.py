"""The support of a method: features of the training images, computed before the first step.

Letters: n training images, each seen P times under other augmentations; D width of a feature.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from ..building.support import encode_batches, give_support
from ..capabilities.biased import Biased
from ..capabilities.on_support import Mirrored, OneView, OnSupport, searches
from ..checkpoint.provenance import load_initial
from ..errors import UserError, need
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
    if not isinstance(method, OnSupport):
        return trainer.training_images
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
        return trainer.training_images
    mirrored = isinstance(method, Mirrored)
    need(
        not (mirrored and passes > 1 and cfg.DATASET.get("FEATURES")),
        f"{type(method).__name__} mirrors training images, but a file of features has only rows: "
        "set IMAGE_AUGMENTATION none",
    )
    seen = seen_images(trainer, passes, mirrored)
    if isinstance(method, OneView):
        views = EncodedViews(trainer, seen)
        method.take_views(views, views.labels)

        def view_of_epoch() -> Iterator[dict[str, torch.Tensor]]:
            yield {"img": views[(trainer.epoch + 1) % len(views)], "label": views.labels}

        return GeneratedLoader(view_of_epoch, 1)
    features, labels = features_of(trainer, seen)
    n = len(labels) // passes
    print(f"Support: features of {n:,} training images, each seen {passes} times")
    if anew:
        method.validation_follows = method.searches
        give_support(method, features, labels, passes)
        load_initial(cfg, method, trainer.dm.dataset)
    if not method.trains_on_support:
        return trainer.training_images
    size = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    return shuffled_rows(features, labels, size, len(trainer.training_images))


def start_bias(trainer: Any) -> None:
    """Start the bias of a method for several labels, unless it has been loaded."""
    method = trainer.method
    if not (isinstance(method, Biased) and method.settings.several) or trainer.loaded:
        return
    loader = loader_of(trainer, seen_images(trainer))
    logits, _ = encode_batches(method, loader, trainer.precision, method)
    method.start_bias(logits)


def seen_images(trainer: Any, passes: int = 1, mirrored: bool = False) -> SeededImages:
    """Return the training images in one view, each as often as there are passes."""
    images = copy(trainer.dm.train_loader_x.dataset)
    images.k_tfm = 1
    rows = [*range(len(images))] * passes
    return SeededImages(images, rows, max(trainer.cfg.SEED, 0), mirrored)


def take_validation(trainer: Any) -> None:
    """Give the method of a `PromptTrainer` the validation images, if it wants them."""
    method = trainer.method
    if searches(method):
        found = encode_batches(method, trainer.validation, trainer.precision)
        method.take_validation(*found)


def features_of(trainer: Any, images: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and labels of training images, as `encode_batches`."""
    return encode_batches(trainer.method, loader_of(trainer, images), trainer.precision)


def loader_of(trainer: Any, images: Dataset) -> Any:
    """Return a loader of training images, in batches of the test."""
    size = trainer.cfg.DATALOADER.TEST.BATCH_SIZE
    return loader_like(trainer.dm.train_loader_x, images, batch_size=size)


class EncodedViews:
    """The views of the training images as features (n, D), each encoded when it is read.

    Views are kept if the method searches. `seen` has the images in all views.

    Attributes:
        labels: (n,).
    """

    def __init__(self, trainer: Any, seen: SeededImages):
        self.trainer, self.seen = trainer, seen
        labels = [item.label for item in seen.images.data_source]
        kind = torch.int8 if trainer.method.settings.several else torch.int64
        self.labels = torch.tensor(labels, dtype=kind, device=trainer.device)
        self.kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.seen) // len(self.labels)

    def __getitem__(self, view: int) -> torch.Tensor:
        """Return a view, from 0."""
        if view in self.kept:
            return self.kept[view]
        n = len(self.labels)
        features, _ = features_of(self.trainer, Subset(self.seen, range(view * n, view * n + n)))
        if searches(self.trainer.method):
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
