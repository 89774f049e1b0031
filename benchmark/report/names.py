"""Names of data sets and methods as papers write them, their order, and motifs."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainers.prompting.errors import printable

from ..protocols.configs import GROUPS

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
_MEDICAL = (
    "BTMRI BUSI CHMNIST COVID-QU-Ex CTKidney DermaMNIST KneeXray Kvasir LC25000 OCTMNIST RETINA"
)
DATASETS |= dict(zip(GROUPS["medical"], _MEDICAL.split(), strict=True))
DATASETS |= {"voc2007": "VOC2007", "coco2014": "COCO2014"}

ZERO_SHOT = "ZeroshotCLIP"

# Methods that papers call by another name than ours.
PAPERS = {
    "AWTFewShot": "AWT",
    "ZeroshotCLIP": "CLIP",
    "CLIPAdapter": "CLIP-Adapter",
    "CLIPLoRA": "CLIP-LoRA",
    "CLIPSVD": "CLIP-SVD",
    "CTPT": "C-TPT",
    "LPPlusPlus": "LP++",
    "MMAPP": "MMA++",
    "MultiModalAdapter": "MMA",
    "OTPT": "O-TPT",
    "PLOTPP": "PLOT++",
    "RTPT": "R-TPT",
    "SOTGLP": "SOT-GLP",
    "TipAdapterF": "Tip-Adapter-F",  # before the name that it begins with
    "TipAdapter": "Tip-Adapter",
    "TwoSFS": "2SFS",
}


def is_embedded(dataset: str) -> bool:
    """Return True if a data set comes with the repository."""
    return dataset.lower().startswith("emoji")  # single runs have DATASET.NAME


def motif(dataset: str, image: str) -> str:
    """Return the motif of an image, by a name that is the same in all data sets that show it.

    The motif of an embedded image is its emoji; man, woman and person count as one, as they do in
    its split. An image of any other data set is its own motif.
    """
    if not is_embedded(dataset):
        return f"{dataset}/{image}"
    emoji = re.sub("-200d-264[02]$", "", PurePosixPath(image).stem)  # without its gender sign
    return re.sub("^1f46[89](?=-200d)", "1f9d1", emoji)  # man or woman with an object: a person


def dataset_title(dataset: str) -> str:
    """Return the usual name of a data set, as `FGVC-Aircraft`; `NAME` for `image_folder=NAME`."""
    return DATASETS.get(dataset, printable(dataset.rpartition("=")[2]))


def method_name(text: str) -> str:
    """Return a method's name as papers write it, or a text with such names."""
    return re.sub("|".join(PAPERS), lambda name: PAPERS[name[0]], text)


# The known methods in the order of a table.
METHODS = [
    "ZeroshotCLIP", "CoOp", "CoCoOp", "VPT", "IVLP", "MaPLe", "UPT", "PLOT", "KgCoOp", "ProGrad",
    "PromptSRC", "TCP", "CoPrompt", "MMP", "ALIGN",
]  # fmt: skip


def rank(trainer: str) -> tuple[int, str]:
    """Return the sort key of a method: known ones first, in their order."""
    return (METHODS.index(trainer) if trainer in METHODS else len(METHODS)), trainer


def in_words(names: Sequence[str]) -> str:
    """Return names as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds in words, as `seeds 1 2 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"
