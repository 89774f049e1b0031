"""Caltech101: pictures of objects of 100 categories."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset


@DATASET_REGISTRY.register()
class Caltech101(FolderDataset):
    """Without the background images, and with one of the two folders of faces."""

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    expected = Counts(100, 4_128, 1_649, 2_465)
    left_out = ("BACKGROUND_Google", "Faces_easy")
    class_names = {
        "airplanes": "airplane",
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
    }
