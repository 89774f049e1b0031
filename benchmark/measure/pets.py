"""A small made-up data set in the layout of OxfordPets, which CoOp's code and ours read alike."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAME = "OxfordPets"
CLASSES = (
    "forest", "annual crop", "sea", "golden retriever", "road",
    "lake", "boeing 737", "highway", "land", "satellite photo",
)  # fmt: skip
IMAGES = {"train": 4, "val": 1, "test": 4}  # of each class
SQUARES = 4  # along each side of an image; a class has a colour for each


def write_pets(root: Path, size: int) -> None:
    """Write images of coloured squares and noise, and their split file, below `DATASET.ROOT`.

    `size` is in pixels, a multiple of SQUARES.
    """
    folder = root / "oxford_pets"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    split: dict[str, list] = {part: [] for part in IMAGES}
    for label, name in enumerate(CLASSES):
        colours = random.integers(40, 216, (SQUARES, SQUARES, 3))
        pattern = np.kron(colours, np.ones((size // SQUARES, size // SQUARES, 1), int))
        for part, count in IMAGES.items():
            for i in range(count):
                file = f"{name.replace(' ', '_')}_{part}_{i}.png"
                pixels = (pattern + random.integers(-40, 41, pattern.shape)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / file)
                split[part].append([file, label, name])
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
