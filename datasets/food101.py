"""Food101: photos of 101 dishes."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset


@DATASET_REGISTRY.register()
class Food101(FolderDataset):
    """The set's own train and test lists are not used."""

    dataset_dir = "food-101"
    split_file = "split_zhou_Food101.json"
    expected = Counts(101, 50_500, 20_200, 30_300)
