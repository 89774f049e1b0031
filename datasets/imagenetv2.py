"""ImageNetV2: new test images, collected as those of ImageNet were."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts
from .imagenet import ShiftedImageNet


@DATASET_REGISTRY.register()
class ImageNetV2(ShiftedImageNet):
    """The variant with matched frequencies."""

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    layout = f"{image_dir}/"
    expected = Counts(1_000, None, None, 10_000)

    @classmethod
    def classes(cls, images, names):
        """The folders are the numbers of the labels, which in a listing stand as 0, 1, 10, ..."""
        return {str(label): name for label, name in enumerate(names.values())}
