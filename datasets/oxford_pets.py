"""Oxford Pets: 37 breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import hold_out, read_table


@DATASET_REGISTRY.register()
class OxfordPets(ImageDataset):
    """The set's own test images, and a fifth of its training images for validation."""

    dataset_dir = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"
    expected = Counts(37, 2_944, 736, 3_669)

    @classmethod
    def make_split(cls, folder):
        """The published test images; validation images are held out of the training images."""
        train, val = hold_out(cls.annotated(folder, "trainval.txt"))
        return train, val, cls.annotated(folder, "test.txt")

    @classmethod
    def annotated(cls, folder, file):
        """The images of lines `Abyssinian_100 1 1 1`: breed and number, label from 1, and more."""
        items = []
        for image, label, _ in read_table(folder / "annotations" / file, 3):
            breed = image.rpartition("_")[0].lower()
            path = folder / cls.image_dir / f"{image}.jpg"
            items.append(Datum(str(path), int(label) - 1, 0, breed))
        return items
