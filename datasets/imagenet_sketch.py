"""ImageNet-Sketch: drawings in black and white."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts
from .imagenet import ShiftedImageNet


@DATASET_REGISTRY.register()
class ImageNetSketch(ShiftedImageNet):
    """All of ImageNet's classes."""

    dataset_dir = "imagenet-sketch"
    layout = "images/"
    expected = Counts(1_000, None, None, 50_889)
