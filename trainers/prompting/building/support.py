"""The support of a method: features of training images that it takes before its first step.

Letters: n training images, each seen P times under other augmentations; D width of a feature.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import make_room
from ..errors import UserError
from ..method import Method
from ..running.precision import Precision

CHUNK = 64  # images that are encoded at a time


@torch.no_grad()
def encode_batches(
    method: Method,
    batches: Iterable[Mapping[str, Any]],
    precision: Precision,
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (., D), float32, not normalised, and labels (.,) on the method's device.

    `batches` are of a loader: `img` (B, 3, H, W) and `label` (B,), or (B, K). Features are what
    `encode` returns of images, by default `clip_features` of the method.
    """
    encode = encode or method.clip_features
    training = method.training
    method.eval()
    with precision.autocast():
        method.text()  # cached: the method may read them outside of autocast
    features, labels = [], []
    for batch in batches:
        with precision.autocast():
            features.append(encode(batch["img"].to(precision.device)))
        labels.append(batch["label"].to(precision.device))
    method.train(training)
    return torch.cat(features), torch.cat(labels)


def give_support(
    method: OnSupport, features: torch.Tensor, labels: torch.Tensor, passes: int
) -> None:
    """Give a method its support: features (P n, D) and labels (P n,), one pass after another."""
    n = len(labels) // passes
    make_room(method, n)
    method.take_support(features.unflatten(0, (passes, n)), labels[:n])


def give_images(method: Method, support: Mapping[str, torch.Tensor]) -> None:
    """Give a method its support from images in memory.

    Args:
        method: one that takes a support.
        support: `images`, (n, 3, H, W) or (P, n, 3, H, W), normalised, or their features, (n, D) or
            (P, n, D), and `labels`, (n,), or (n, K) of several.
    """
    name = type(method).__name__
    if not isinstance(method, OnSupport) or not method.support_passes:
        raise UserError(f"{name} takes no support: leave `support` out")
    images, labels = support["images"], support["labels"]
    if images.dim() in (2, 4):
        images = images[None]
    K = method.num_classes
    several = method.settings.several
    least = -1 if several and not method.needs_all_labels else 0
    most, each = (1, (K,)) if several else (K - 1, ())
    if (
        labels.shape != (images.shape[1], *each)
        or labels.is_floating_point()
        or not least <= int(labels.min()) <= int(labels.max()) <= most
    ):
        raise UserError(
            f"The support of {name} has images {tuple(support['images'].shape)}, or features of "
            f"them, and labels {tuple(labels.shape)} of {labels.dtype}: give for n images "
            f"n{f' x {K}' * several} whole numbers from {least} to {most}"
        )
    passes = len(images)
    every = images.flatten(0, 1).split(CHUNK), torch.cat([labels] * passes).split(CHUNK)
    batches = ({"img": x, "label": y} for x, y in zip(*every, strict=True))
    features, labels = encode_batches(method, batches, Precision("fp32", method.device))
    give_support(method, features, labels, passes)
