"""Hand-written sentences for the classes of each data set, as in the published code of each method.

A table lists the data sets that differ from `DEFAULT`; `{}` stands for the class name
(docs/methods.md, section 8).
"""

DEFAULT = "a photo of a {}."

# CLIP's zero-shot sentences, as CoOp uses them
ZERO_SHOT = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

# the best seven of CLIP's 80 sentences for ImageNet, as Tip-Adapter uses them
IMAGENET = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# the sentences that KgCoOp, ProGrad and TCP keep their prompts close to
KGCOOP = ZERO_SHOT | {"DescribableTextures": "a photo of a {}, a type of texture."}
TCP = KGCOOP | {
    "FGVCAircraft": "a photo of an aircraft {}.",
    "Food101": "a photo of a {}, a type of food.",
}
PROGRAD = ZERO_SHOT | {
    "OxfordPets": "a type of pet, a photo of a {}.",
    "OxfordFlowers": "a type of flower, a photo of a {}.",
    "FGVCAircraft": "a type of aircraft, a photo of a {}.",
    "DescribableTextures": "a texture of {}.",
    "Food101": "a type of food, a photo of {}.",
}

# the sentences of AWT, which descriptions follow
AWT = {
    "ImageNetSketch": "a sketch photo of a {}.",
    "ImageNetR": "a rendition photo of a {}.",
    "OxfordPets": "a photo of a {} from OxfordPets.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {} from Fine-Grained Visual Classification of Aircraft.",
    "DescribableTextures": "a photo of a {}, which is a type of texture, or a type of pattern.",
    "EuroSAT": "satellite photo of the {}.",
    "Food101": "a photo of a {} from Food101.",
    "UCF101": "a photo of a person doing {}.",
}

# the sentences of SkipTuning
SKIPTUNING = {
    "ImageNetSketch": "a sketch of a {}.",
    "ImageNetA": "a bad photo of a {}.",
    "ImageNetR": "a rendition of a {}.",
    "Caltech101": "itap of a {}.",
    "DescribableTextures": "itap of a {}.",
    "EuroSAT": "a centered satellite photo of {}.",
    "FGVCAircraft": "a bright photo of a {}, a type of aircraft.",
    "Food101": "a photo of the nice {}.",
    "OxfordFlowers": "a close-up photo of a {}.",
    "OxfordPets": "a bad photo of a {}, a type of pet.",
    "StanfordCars": "a photo of the {}, a type of car.",
    "UCF101": "a photo of a {}, a type of sport.",
}

# TCP: the words after the learned tokens, by default the class name and a full stop
TCP_ENDS = {
    "OxfordPets": "{}, a type of pet.",
    "OxfordFlowers": "{}, a type of flower.",
    "FGVCAircraft": "{}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "Food101": "{}, a type of food.",
    "UCF101": "person doing {}.",
    "StanfordCars": "{}, a type of car",  # without a full stop
}

# PLOT++: the words from which the textual prompts start, on ImageNet's variants as on ImageNet
PLOTPP_DEFAULT = (
    "a photo of a", "this is a photo", "this is picture of", "one picture of a",
)  # fmt: skip
PLOTPP = {
    "ImageNet": ("a photo of a", "this is a photo", "this is a", "one picture of a"),
    "DescribableTextures": (
        "a photo of a texture", "this is a photo texture", "this is a picture texture",
        "one picture of a texture",
    ),
    "EuroSAT": (
        "a centered satellite photo of", "a centered satellite picture of",
        "this is centered satellite photo of", "one centered satellite photo of a",
    ),
    "FGVCAircraft": (
        "a photo of an aircraft", "a picture of an aircraft", "this is aircraft picture of",
        "one picture of an aircraft",
    ),
    "Food101": (
        "a photo of a food", "this is a food photo", "this is food picture of",
        "one picture of a food",
    ),
    "OxfordFlowers": (
        "a photo of a flower", "one picture of a flower", "this is flower picture of",
        "one picture of a flower",
    ),
    "OxfordPets": (
        "a photo of a pet", "one picture of a pet", "this is pet picture of",
        "one picture of a pet",
    ),
    "UCF101": (
        "a photo of a person doing", "this is a photo people doing",
        "this is picture of people doing", "one picture of a person doing",
    ),
}  # fmt: skip

# PromptSRC: 60 of the 80 sentences of CLIP's notebook, for every data set; without `{}` the class
# name comes last
_PROMPTSRC = """
    a photo of a, a bad photo of a, a photo of many, a sculpture of a, a photo of the hard to see,
    a low resolution photo of the, a rendering of a, graffiti of a, a bad photo of the, a cropped
    photo of the, a tattoo of a, the embroidered, a photo of a hard to see, a bright photo of a, a
    photo of a clean, a photo of a dirty, a dark photo of the, a drawing of a, a photo of my, the
    plastic, a photo of the cool, a close-up photo of a, a black and white photo of the, a
    painting of the, a painting of a, a pixelated photo of the, a sculpture of the, a bright photo
    of the, a cropped photo of a, a plastic, a photo of the dirty, a jpeg corrupted photo of a, a
    blurry photo of the, a photo of the, a good photo of the, a rendering of the, a {} in a video
    game, a photo of one, a doodle of a, a close-up photo of the, the origami, the {} in a video
    game, a sketch of a, a doodle of the, a origami, a low resolution photo of a, the toy, a
    rendition of the, a photo of the clean, a photo of a large, a rendition of a, a photo of a
    nice, a photo of a weird, a blurry photo of a, a cartoon, art of a, a sketch of the, a
    embroidered, a pixelated photo of a, itap of the
"""
PROMPTSRC = tuple(
    (words if "{}" in words else f"{words} {{}}") + "."
    for words in " ".join(_PROMPTSRC.split()).split(", ")
)

# all 80 sentences of CLIP's notebook
CLIP = (*PROMPTSRC,) + tuple(
    words + "."
    for words in (
        "a jpeg corrupted photo of the {}", "a good photo of a {}", "a plushie {}",
        "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}",
        "the cartoon {}", "art of the {}", "a drawing of the {}", "a photo of the large {}",
        "a black and white photo of a {}", "the plushie {}", "a dark photo of a {}",
        "itap of a {}", "graffiti of the {}", "a toy {}", "itap of my {}", "a photo of a cool {}",
        "a photo of a small {}", "a tattoo of the {}",
    )
)  # fmt: skip


def template_of(table: dict[str, str], dataset: str) -> str:
    """Return the sentence of a data set, with `{}` for the class name."""
    return table.get(dataset, DEFAULT)
