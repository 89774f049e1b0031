"""The public data sets of class folders: Caltech101, textures, EuroSAT, Food101."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset


@DATASET_REGISTRY.register()
class Caltech101(FolderDataset):
    """Objects of 100 categories, without background images and the second folder of faces."""

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


@DATASET_REGISTRY.register()
class DescribableTextures(FolderDataset):
    """Textures in 47 categories; the ten published divisions are not used."""

    dataset_dir = "dtd"
    split_file = "split_zhou_DescribableTextures.json"
    expected = Counts(47, 2_820, 1_128, 1_692)


@DATASET_REGISTRY.register()
class EuroSAT(FolderDataset):
    """RGB satellite images of ten kinds of land use."""

    dataset_dir = "eurosat"
    image_dir = "2750"
    split_file = "split_zhou_EuroSAT.json"
    expected = Counts(10, 13_500, 5_400, 8_100)
    class_names = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }


@DATASET_REGISTRY.register()
class Food101(FolderDataset):
    """Photos of 101 dishes; the published training and test lists are not used."""

    dataset_dir = "food-101"
    split_file = "split_zhou_Food101.json"
    expected = Counts(101, 50_500, 20_200, 30_300)
