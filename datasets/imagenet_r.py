"""ImageNet-R: renditions."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts
from .imagenet import PartOfImageNet


@DATASET_REGISTRY.register()
class ImageNetR(PartOfImageNet):
    """Art, cartoons, toys and the like of 200 classes."""

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    layout = "imagenet-r/"
    expected = Counts(200, None, None, 30_000)
