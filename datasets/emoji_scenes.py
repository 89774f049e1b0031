"""Scenes of the embedded emoji, each with one to four: a data set with several labels an image.

An emoji is pasted as it is, so that all machines have the same pixels.
"""

import random

from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image

from .emoji import Emoji, filled, home
from .several import SeveralLabels
from .splits import PARTS, read_split
from .tags import ABSENT, PRESENT, Tagged

CELL = 64  # pixels of an emoji
CELLS = [(0, 0), (CELL, 0), (0, CELL), (CELL, CELL)]
SIZES = {"train": 1_200, "val": 400, "test": 1_200}
DRAWING = 1  # changes when scenes change, so that old ones are not read


def drawn_scenes(parts):
    """Return the scenes of each part: emoji, Datum or None, of the four cells.

    Each has one to four classes; all classes are as frequent.
    """
    scenes: dict[str, list] = {}
    for part, items in zip(PARTS, parts, strict=True):
        rng = random.Random(f"scenes {part} {DRAWING}")
        classes: dict[int, list] = {}
        for item in items:
            classes.setdefault(item.label, []).append(item)
        scenes[part] = []
        for _ in range(SIZES[part]):
            labels = rng.sample(sorted(classes), rng.randint(1, len(CELLS)))
            cells = [rng.choice(classes[label]) for label in labels]
            cells += [None] * (len(CELLS) - len(cells))
            scenes[part].append(rng.sample(cells, len(cells)))
    return scenes


@DATASET_REGISTRY.register()
class EmojiScenes(SeveralLabels, Emoji):
    """Scenes of 2 x 2 cells, on 128 x 128 pixels, with the motifs of `Emoji` in each part."""

    @classmethod
    def read(cls, folder):
        """Return the scenes, which are drawn when they are first read."""
        parts = read_split(folder / cls.split_file, folder / "images")
        names = tuple(Emoji.names_of(parts[0]))
        scenes = drawn_scenes(parts)

        def draw(folder):
            for part, of_part in scenes.items():
                for i, cells in enumerate(of_part):
                    image = Image.new("RGB", (2 * CELL, 2 * CELL), "white")
                    for place, item in zip(CELLS, cells, strict=True):
                        if item is not None:
                            with Image.open(item.impath) as emoji:
                                image.paste(emoji.convert("RGB"), place)
                    image.save(folder / f"{part}_{i:04}.png", compress_level=1)

        images = filled(home() / "emoji_scenes" / f"{folder.name}-{DRAWING}", draw)
        found: list[list] = []
        for part, of_part in scenes.items():
            found.append([])
            for i, cells in enumerate(of_part):
                present = {item.label for item in cells if item is not None}
                label = tuple(PRESENT if k in present else ABSENT for k in range(len(names)))
                found[-1].append(Tagged(f"{images}/{part}_{i:04}.png", label, names))
        return found
