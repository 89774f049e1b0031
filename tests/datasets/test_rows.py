"""Data sets whose images are rows of features: of the set itself, without copies."""

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from feature_files import TEMPLATE, content, write

from recipe.settings import build_cfg
from trainers.prompting import UserError


def data_set(file, name="FeatureFile"):
    """Return a data set on a file of features."""
    keys = {"DATASET.NAME": name, "DATASET.FEATURES": str(file), "TRAINER.NAME": "CLAP"}
    return DATASET_REGISTRY.get(name)(build_cfg([("x", keys)]))


@pytest.mark.parametrize("of, name", [
    ("", "EuroSAT"), ("object", "EuroSAT"), ("ImageDataset", "EuroSAT"), ("DTD", "EuroSAT"),
    ("", "ImageFolder"), ("Emoji", "EmojiBlur"), ("FeatureFile", "WHURS19"), ("", "WHURS19All"),
])  # fmt: skip
def test_a_file_of_another_data_set(tmp_path, of, name):
    file = write(tmp_path / "a.safetensors", header={"dataset": of})
    wanted = name.removesuffix("All")
    with pytest.raises(UserError, match=f"features of {of or 'a data set w'}.*, not of {wanted} "):
        data_set(file, name)
    assert data_set(file).num_classes == 3  # takes any


@pytest.mark.parametrize("row, dataset, why", [
    (0, "", "1 images of '.*' are also in another part, such as '.*/000000' .train. and '.*/0000"),
    (14, "ImageFolder", "1 images of '.*' are also in another part, such as '.*/000014' .val. and"),
    (22, "Own", None),
    (0, "EuroSAT", None),  # public sets have copies
])  # fmt: skip
def test_equal_rows(tmp_path, capsys, row, dataset, why):
    image = content()[0]["image"]
    image[23] = image[row]  # a test row, of class 2
    file = write(tmp_path / "a.safetensors", {"image": image}, {"dataset": dataset})
    if why:
        with pytest.raises(UserError, match=why):
            data_set(file)
        return
    assert len(data_set(file).test) == 6
    note = "has 1 images twice in the same part" in capsys.readouterr().out
    assert note == (dataset == "Own")  # of two classes


@pytest.mark.parametrize("tests, fits", [(8_100, True), (8_099, False)])
def test_published_counts(tmp_path, capsys, tests, fits):
    rows, K = 10 + tests, 10
    tensors = {"image": torch.ones(rows, 2), "label": torch.arange(rows) % K}
    tensors[f"text/{TEMPLATE}"] = torch.ones(K, 2)
    split = {"train": [*range(K)], "val": [], "test": [*range(K, rows)]}
    header = {"classnames": [f"land {k}" for k in range(K)], "split": split, "dataset": "EuroSAT"}
    file = write(tmp_path / "a.safetensors", tensors, header)
    assert data_set(file, "EuroSAT").as_published == fits
    assert data_set(file).as_published is None
    note = "10 classes and 8,099 test images here, but 10 and 8,100 as published"
    assert (note not in capsys.readouterr().out) == fits


def test_rows_by_name(tmp_path):
    """A row is the same one in another file of the same classes, if it has a name."""
    names = {"images": [f"{i}.jpg" for i in range(24)]}
    keys = []
    for seed, header in ((0, names), (1, names), (0, {}), (1, {})):
        file = write(tmp_path / f"{len(keys)}.safetensors", header=header, seed=seed)
        keys.append([*data_set(file).keys.values()])
    assert keys[0] == keys[1] and not {*keys[2]} & {*keys[3]} and not {*keys[0]} & {*keys[2]}
