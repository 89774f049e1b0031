"""Data sets and methods as papers write them."""

# By the name of the config file, in the order of the papers; any other comes after these.
DATASETS = {
    "imagenet": "ImageNet",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "oxford_flowers": "Flowers102",
    "food101": "Food101",
    "fgvc_aircraft": "FGVC-Aircraft",
    "sun397": "SUN397",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
    "imagenetv2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
}


def dataset_name(dataset: str) -> str:
    """A data set as a reader knows it: `FGVC-Aircraft`; `NAME` of `image_folder=NAME`."""
    return DATASETS.get(dataset, dataset.rpartition("=")[2])


def method_name(method: str) -> str:
    """A method as a paper writes it; what stands behind its name in brackets stays."""
    return method.replace("ZeroshotCLIP", "CLIP")
