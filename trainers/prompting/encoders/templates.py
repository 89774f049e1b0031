"""The hand-written sentence of each data set, as CLIP's authors and CoOp use it for zero-shot."""

DEFAULT = "a photo of a {}."

ZERO_SHOT = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}


def zero_shot_template(dataset: str) -> str:
    """The sentence with `{}` for the class name."""
    return ZERO_SHOT.get(dataset, DEFAULT)
