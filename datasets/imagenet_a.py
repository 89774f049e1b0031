"""ImageNet-A: photos that deceived classifiers."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts
from .imagenet import PartOfImageNet


@DATASET_REGISTRY.register()
class ImageNetA(PartOfImageNet):
    """Adversarially filtered images of 200 classes."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    layout = "imagenet-a/"
    expected = Counts(200, None, None, 7_500)
