"""Describable Textures: 47 words for textures."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset


@DATASET_REGISTRY.register()
class DescribableTextures(FolderDataset):
    """The set's own ten divisions are not used."""

    dataset_dir = "dtd"
    split_file = "split_zhou_DescribableTextures.json"
    expected = Counts(47, 2_820, 1_128, 1_692)
