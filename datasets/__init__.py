"""The data sets; importing this package registers them with Dassl."""

from . import (  # noqa: F401 (registers them)
    caltech101,
    dtd,
    emoji,
    eurosat,
    fgvc_aircraft,
    food101,
    image_folder,
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenetv2,
    oxford_flowers,
    oxford_pets,
    stanford_cars,
    sun397,
    ucf101,
)
from .base import ImageDataset

__all__ = ["ImageDataset"]
