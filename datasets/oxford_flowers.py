"""Oxford Flowers: 102 kinds of flowers."""

import json

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import divide, read_mat


@DATASET_REGISTRY.register()
class OxfordFlowers(ImageDataset):
    """The set's own division, which trains on ten images of a class, is not used."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    expected = Counts(102, 4_093, 1_633, 2_463)

    @classmethod
    def make_split(cls, folder):
        """The labels of images 1, 2, ... are in a MATLAB file, names of labels in a JSON file."""
        labels = read_mat(folder / "imagelabels.mat", "labels").tolist()
        names = json.loads((folder / "cat_to_name.json").read_text(encoding="utf8"))
        images = folder / cls.image_dir
        return divide(
            [
                Datum(f"{images}/image_{i:05}.jpg", label - 1, 0, names[str(label)])
                for i, label in enumerate(labels, start=1)
            ]
        )
