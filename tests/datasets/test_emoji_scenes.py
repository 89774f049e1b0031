"""The embedded scenes: their pixels, labels and motifs are the same everywhere."""

import hashlib

import pytest
from own_images import read
from PIL import Image

from datasets import emoji
from datasets.emoji_scenes import SIZES, drawn_scenes
from datasets.splits import PARTS, read_split
from datasets.tags import table

PIXELS = "1dd2ddd46dde30da"  # the start of the SHA-256 of 40 scenes


@pytest.fixture(scope="module")
def scenes():
    return read("EmojiScenes", "")


def test_scenes_have_these_pixels(scenes):
    digest = hashlib.sha256()
    for item in scenes.test[:20] + scenes.train_x[:20]:
        digest.update(Image.open(item.impath).tobytes())
    assert digest.hexdigest()[: len(PIXELS)] == PIXELS


def test_labels_are_enough_for_every_class(scenes):
    sizes = dict(zip(PARTS, (scenes.train_x, scenes.val, scenes.test), strict=True))
    assert {part: len(items) for part, items in sizes.items()} == SIZES
    for part, items in sizes.items():
        labels = table(items)
        assert {*labels.sum(1).tolist()} == {1, 2, 3, 4}
        assert labels.shape[1] == 37 and labels.sum(0).min() >= (10 if part == "val" else 20)


def test_scenes_have_the_motifs_of_their_part():
    folder = emoji.unpack(emoji.ARCHIVE, emoji.home())
    parts = read_split(folder / "split_emoji.json", folder / "images")
    scenes = drawn_scenes(parts)
    for part, items in zip(PARTS, parts, strict=True):
        drawn = {item.impath for cells in scenes[part] for item in cells if item}
        assert drawn <= {item.impath for item in items} and len(drawn) > 0.9 * len(items)
