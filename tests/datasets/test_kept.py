"""Few-shot images that a checkout of CoOp has drawn and kept."""

import os
import pickle
import random
from pathlib import Path

import pytest
from dassl.data.datasets import Datum
from public_layouts import eurosat, imagenet, load

from trainers.prompting.errors import UserError

SHOTS = 2


def theirs(item, root, label=None):
    """Return an image as in the pickle of another machine."""
    path = f"/home/someone/data/{Path(item.impath).relative_to(root).as_posix()}"
    return Datum(path, item.label if label is None else label, 0, item.classname)


def drawn(items, root, shots=SHOTS):
    """Return images of each class, drawn as no seed of ours does, in another order."""
    chance, classes = random.Random("theirs"), {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    found = [item for group in classes.values() for item in chance.sample(group, shots)]
    chance.shuffle(found)
    return [theirs(item, root) for item in found]


def keep(root, content, name="imagenet"):
    path = root / name / "split_fewshot" / f"shot_{SHOTS}-seed_1.pkl"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 5))
    return path


def end(item):
    return Path(item.impath).name, item.label, item.classname


@pytest.mark.parametrize("builder", [imagenet, eurosat])
def test_the_images_of_a_file_replace_those_of_the_seed(builder, tmp_path):
    builder(tmp_path)
    name = builder.__name__
    whole, usual = load(name, tmp_path), load(name, tmp_path, SHOTS)
    content = {"train": drawn(whole.train_x, tmp_path)}
    if name == "eurosat":  # CoOp keeps no validation images of ImageNet
        content["val"] = drawn(whole.val, tmp_path)
    keep(tmp_path, content, name)
    dataset = load(name, tmp_path, SHOTS, KEPT_SHOTS=True)
    assert list(map(end, dataset.train_x)) == list(map(end, content["train"]))
    assert list(map(end, dataset.val)) == list(map(end, content.get("val", whole.val)))
    assert set(map(end, dataset.train_x)) != set(map(end, usual.train_x))
    assert all(Path(item.impath).is_file() for item in dataset.train_x)
    half = load(name, tmp_path, SHOTS, "base", KEPT_SHOTS=True)
    assert {item.impath for item in half.train_x} < {item.impath for item in dataset.train_x}


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def with_first(items, changed):
    return {"train": [changed, *items[1:]]}


MISTAKES = {
    "missing": (None, r"cannot be read \(No such file"),
    "truncated": (lambda d, r: pickle.dumps({"train": drawn(d.train_x, r)}, 5)[:-40], "is damaged"),
    "no pickle": (lambda d, r: b"\x80", "is damaged"),
    "code": (lambda d, r: {"train": [Harmful()]}, "objects of (posix|nt).system, which could run"),
    "a foreign class": (lambda d, r: {"train": [Path("x")]}, "it holds objects of pathlib"),
    "a list": (lambda d, r: drawn(d.train_x, r), "no draw of CoOp"),
    "no images": (lambda d, r: {"train": ["a.jpg"]}, "no draw of CoOp"),
    "another part": (lambda d, r: {"val": drawn(d.val, r)}, "lacks images for 'train'"),
    "another order of labels": (
        lambda d, r: with_first(drawn(d.train_x, r), theirs(d.train_x[0], r, 5)),
        r"the label 5, but it is 0 \(animal 0\) here",
    ),
    "a test image": (
        lambda d, r: with_first(drawn(d.train_x, r), theirs(d.test[0], r)), "is a test image in"
    ),
    "an image that is not here": (
        lambda d, r: with_first(drawn(d.train_x, r), Datum("/data/imagenet/x.jpg", 0, 0, "animal")),
        "x.jpg', which is not among the images for 'train' in",
    ),
    "other shots": (
        lambda d, r: {"train": drawn(d.train_x, r, 3)}, "has 3 images of label 0 for 'train', and"
    ),
    "an image twice": (
        lambda d, r: {"train": 2 * drawn(d.train_x, r, 1)}, "has 1 images of label 0 for 'train'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_file_that_does_not_fit(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    imagenet(tmp_path)
    content, said = MISTAKES[case]
    if content:
        keep(tmp_path, content(load("imagenet", tmp_path), tmp_path))
    with pytest.raises(UserError, match=f"shot_2-seed_1.pkl' .*{said}.*, or leave the key out$"):
        load("imagenet", tmp_path, SHOTS, KEPT_SHOTS=True)
    assert not os.path.exists("harmed")


def test_a_file_without_validation_images_or_shots(tmp_path):
    eurosat(tmp_path)
    keep(tmp_path, {"train": drawn(load("eurosat", tmp_path).train_x, tmp_path)}, "eurosat")
    with pytest.raises(UserError, match="lacks images for 'val'"):
        load("eurosat", tmp_path, SHOTS, KEPT_SHOTS=True)
    with pytest.raises(UserError, match=r"KEPT_SHOTS needs DATASET\.NUM_SHOTS"):
        load("eurosat", tmp_path, KEPT_SHOTS=True)
