"""Stanford Cars: 196 models of cars."""

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import hold_out, read_mat


@DATASET_REGISTRY.register()
class StanfordCars(ImageDataset):
    """The set's own test images, and a fifth of its training images for validation."""

    dataset_dir = "stanford_cars"
    image_dir = ""  # paths start with cars_train/ or cars_test/
    split_file = "split_zhou_StanfordCars.json"
    layout = "cars_train/, cars_test/ and split_zhou_StanfordCars.json"
    expected = Counts(196, 6_509, 1_635, 8_041)

    @classmethod
    def make_split(cls, folder):
        """The published test images; validation images are held out of the training images."""
        devkit = folder / "devkit"
        names = [year_first(name) for name in read_mat(devkit / "cars_meta.mat", "class_names")]

        def annotated(images, file):
            items = []
            for row in read_mat(file, "annotations"):
                label = int(row["class"]) - 1
                items.append(Datum(f"{images}/{row['fname']}", label, 0, names[label]))
            return items

        train, val = hold_out(annotated(folder / "cars_train", devkit / "cars_train_annos.mat"))
        test = annotated(folder / "cars_test", folder / "cars_test_annos_withlabels.mat")
        return train, val, test


def year_first(name):
    """`Audi TTS Coupe 2012` as one says it."""
    model, _, year = name.rpartition(" ")
    return f"{year} {model}"
