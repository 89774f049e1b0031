"""EuroSAT: satellite images of ten kinds of land."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset


@DATASET_REGISTRY.register()
class EuroSAT(FolderDataset):
    """The RGB images."""

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
