"""Names of data sets and methods as papers write them, and the motifs of embedded images."""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

# By name of the config file, in the order of the papers; other data sets come after these.
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

# Methods that papers call by another name than ours.
PAPERS = {
    "ZeroshotCLIP": "CLIP",
    "CLIPAdapter": "CLIP-Adapter",
    "MultiModalAdapter": "MMA",
    "PLOTPP": "PLOT++",
    "SOTGLP": "SOT-GLP",
    "TwoSFS": "2SFS",
}

# The embedded data sets with base and new classes, by artist; all show the same motifs.
ARTISTS = {
    "OpenMoji": [
        "emoji", "emoji_blur", "emoji_fog", "emoji_hue", "emoji_openmoji_a", "emoji_openmoji_b",
    ],
    "Fluent 3D": [
        "emoji_dither", "emoji_motion", "emoji_night", "emoji_pixels", "emoji_fluent_a",
        "emoji_fluent_b",
    ],
    "EmojiOne": ["emoji_emojione_a", "emoji_emojione_b"],
    "Symbola": ["emoji_symbola_a", "emoji_symbola_b"],
}  # fmt: skip


def embedded(dataset: str) -> bool:
    """Return True if a data set comes with the repository."""
    return dataset.startswith("emoji")


def motif(dataset: str, image: str) -> str:
    """Return the motif of an image, by a name that is the same in all data sets that show it.

    The motif of an embedded image is its emoji; man, woman and person count as one, as they do in
    its split. An image of any other data set is its own motif.

    Args:
        dataset: the name of its config file.
        image: the file, as in `predictions.npz`.
    """
    if not embedded(dataset):
        return f"{dataset}/{image}"
    emoji = re.sub("-200d-264[02]$", "", PurePosixPath(image).stem)  # without its gender sign
    return re.sub("^1f46[89](?=-200d)", "1f9d1", emoji)  # man or woman with an object: a person


def by_artist(datasets: Collection[str]) -> dict[str, set[str]]:
    """Group data sets by artist; empty unless there are several artists."""
    found = {artist: set(datasets) & set(drawn) for artist, drawn in ARTISTS.items()}
    found = {artist: drawn for artist, drawn in found.items() if drawn}
    return found if len(found) > 1 else {}


def dataset_title(dataset: str) -> str:
    """Return the usual name of a data set, as `FGVC-Aircraft`; `NAME` for `image_folder=NAME`."""
    return DATASETS.get(dataset, dataset.rpartition("=")[2])


def method_name(text: str) -> str:
    """Return a method's name as papers write it, or a text with such names."""
    return re.sub("|".join(PAPERS), lambda name: PAPERS[name[0]], text)
