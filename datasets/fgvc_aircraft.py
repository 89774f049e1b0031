"""FGVC-Aircraft: 100 variants of aircraft."""

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import PARTS, read_lines, read_table


@DATASET_REGISTRY.register()
class FGVCAircraft(ImageDataset):
    """The set's own three parts: there is no split file."""

    dataset_dir = "fgvc_aircraft"
    layout = "images/, variants.txt and images_variant_{train,val,test}.txt"
    expected = Counts(100, 3_334, 3_333, 3_333)

    @classmethod
    def make_split(cls, folder):
        """The published training, validation and test images of the 100 variants."""
        labels = {variant: i for i, variant in enumerate(read_lines(folder / "variants.txt"))}

        def annotated(part):
            return [
                Datum(f"{folder / cls.image_dir}/{image}.jpg", labels[variant], 0, variant)
                for image, variant in read_table(folder / f"images_variant_{part}.txt", 2)
            ]

        return [annotated(part) for part in PARTS]
