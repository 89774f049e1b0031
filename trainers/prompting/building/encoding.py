"""Encodes images with a CLIP's own image encoder, while the next ones are read."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from ..images.image_files import read_ahead
from ..method import Method
from .build import build_method
from .transforms import Images

THREADS = 8  # that read images
T = TypeVar("T")


def plain_encoder(clip_model: Any) -> tuple[Method, Images]:
    """Return zero-shot CLIP on the device of a CLIP, and how the CLIP reads images."""
    method = build_method("ZeroshotCLIP", {}, clip_model, ["a", "b"]).eval()
    return method.to(clip_model.logit_scale.device), Images.of(clip_model)


def encode_images(
    method: Method,
    items: Sequence[T],
    read: Callable[[T], Any],
    size: int,
    finish: Callable[[T, Any], torch.Tensor] = lambda item, image: image,
) -> Iterator[tuple[list[T], list[T], torch.Tensor]]:
    """Yield batches of items, those of them that could be read, and their features, on the CPU.

    Args:
        method: whose `clip_features` are taken: (B, D), float32, not normalised.
        items: what images are read from.
        read: returns an image, or None if it cannot; called in several threads.
        size: of a batch.
        finish: makes an input (3, H, W) of an item and its image; called in this thread alone, so
            that it may seed random numbers.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for batch, images in read_ahead(pool, read, items, size):
            found = [(item, x) for item, x in zip(batch, images, strict=True) if x is not None]
            inputs, z = [finish(item, image) for item, image in found], torch.empty(0)
            if inputs:
                with torch.no_grad():
                    z = method.clip_features(torch.stack(inputs).to(method.device)).cpu()
            yield batch, [item for item, _ in found], z
