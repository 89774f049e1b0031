"""SUN397: 397 kinds of scenes."""

from pathlib import PurePosixPath

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import hold_out, read_lines


@DATASET_REGISTRY.register()
class SUN397(ImageDataset):
    """The first of the set's own divisions, and a fifth of its training images for validation."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
    expected = Counts(397, 15_880, 3_970, 19_850)

    @classmethod
    def make_split(cls, folder):
        """The first published partition; validation images are held out of the training images."""
        labels = {scene: i for i, scene in enumerate(read_lines(folder / "ClassName.txt"))}

        def annotated(file):
            items = []
            for line in read_lines(folder / file):
                scene = str(PurePosixPath(line).parent)
                path = f"{folder / cls.image_dir}{line}"
                items.append(Datum(path, labels[scene], 0, scene_name(scene)))
            return items

        train, val = hold_out(annotated("Training_01.txt"))
        return train, val, annotated("Testing_01.txt")


def scene_name(scene):
    """`/c/church/indoor` is an `indoor church`."""
    return " ".join(reversed(PurePosixPath(scene).parts[2:]))
