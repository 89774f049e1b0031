"""ImageNet (ILSVRC 2012), and what its shifted domains share with it."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, ImageDataset
from .files import class_folders, read_classnames, read_folders, some


@DATASET_REGISTRY.register()
class ImageNet(ImageDataset):
    """The official validation images are both the test and the validation images."""

    dataset_dir = "imagenet"
    layout = "images/train/, images/val/ and classnames.txt"
    expected = Counts(1_000, 1_281_167, None, 50_000)

    @classmethod
    def read(cls, folder):
        """Training, validation and test images."""
        source = folder / "classnames.txt"
        classes = by_wnid(source)
        images = folder / cls.image_dir
        train, val = (read_folders(images / part, classes, source) for part in ("train", "val"))
        return train, val, val

    def few_shot(self, train, val, shots, seed):
        """Draws from the training images alone: those for validation are the test images."""
        train, _ = super().few_shot(train, [], shots, seed)
        return train, val


class ShiftedImageNet(ImageDataset):
    """Images of ImageNet's classes from another source, to be tested on.

    There is nothing to train on; Dassl reads class names from training images, so `train_x` is
    the test set, whatever the number of shots.
    """

    @classmethod
    def read(cls, folder):
        """Training, validation and test images."""
        source = folder / "classnames.txt"
        if not source.exists():
            source = folder.parent / ImageNet.dataset_dir / source.name
        images = folder / cls.image_dir
        test = read_folders(images, cls.classes(images, by_wnid(source)), source)
        return test, [], test

    @classmethod
    def classes(cls, images, names):
        """Folder to class name, in the order of the labels.

        Args:
            images: the folder of the class folders.
            names: the same for ImageNet.
        """
        return names

    def few_shot(self, train, val, shots, seed):
        """The images as they are: a shifted domain is only tested."""
        return train, val


class PartOfImageNet(ShiftedImageNet):
    """A shifted domain with 200 of the classes, which are those whose folders are there."""

    labels: frozenset[int] = frozenset()  # of the 200 classes among ImageNet's

    @classmethod
    def classes(cls, images, names):
        """The classes whose folders are there."""
        here = class_folders(images)
        if len(names) == ImageNet.expected.classes:  # else the labels are not ImageNet's
            lacking = [x for label, x in enumerate(names) if label in cls.labels and x not in here]
            if lacking:
                print(
                    f"Note: '{images}' lacks {len(lacking):,} of its {len(cls.labels):,} class "
                    f"folders ({some(lacking)}): only the other classes are told apart"
                )
        return {folder: name for folder, name in names.items() if folder in here}


def by_wnid(source):
    """Folder to class name; sorted folders are the order of ImageNet's labels."""
    return dict(sorted(read_classnames(source).items()))
