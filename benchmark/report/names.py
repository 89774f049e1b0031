"""Data sets and methods as papers write them, and what images of the embedded data sets show."""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

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

# Who drew the embedded data sets with base and new classes: the same motifs in each.
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
    """Whether a data set is one of those that come with the repository."""
    return dataset.startswith("emoji")


def motif(dataset: str, image: str) -> str:
    """What an image shows, by a name that all data sets share in which it is shown.

    That of an embedded image is its emoji, with man, woman and person as one, as in its split. An
    image of any other data set is a motif by itself.

    Args:
        dataset: the name of its config file.
        image: the file, as `predictions.npz` has it.
    """
    if not embedded(dataset):
        return f"{dataset}/{image}"
    emoji = re.sub("-200d-264[02]$", "", PurePosixPath(image).stem)  # without its gender sign
    return re.sub("^1f46[89](?=-200d)", "1f9d1", emoji)  # the man and woman with a thing: a person


def by_artist(datasets: Collection[str]) -> dict[str, set[str]]:
    """Those of some data sets that each artist drew, where there are several artists."""
    found = {artist: set(datasets) & set(drawn) for artist, drawn in ARTISTS.items()}
    found = {artist: drawn for artist, drawn in found.items() if drawn}
    return found if len(found) > 1 else {}


def dataset_title(dataset: str) -> str:
    """A data set as a reader knows it: `FGVC-Aircraft`; `NAME` of `image_folder=NAME`."""
    return DATASETS.get(dataset, dataset.rpartition("=")[2])


def method_name(method: str) -> str:
    """A method as a paper writes it; what stands behind its name in brackets stays."""
    return method.replace("ZeroshotCLIP", "CLIP")
