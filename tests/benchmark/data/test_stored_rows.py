"""Tests of `check-data --zero-shot whurs19-images`, with drawn images and the embedded CLIP."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from benchmark.__main__ import main
from benchmark.data import stored_rows
from benchmark.data.check_data import PHOTOGRAPHS
from trainers.prompting.storage.features import read_features, write_features

NAMES = ("port", "railway station")
EACH = 5  # images a class


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Write ten images, of coloured squares."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in NAMES:
        folder = root / PHOTOGRAPHS / "images" / name
        folder.mkdir(parents=True)
        for i in range(EACH):
            pixels = rng.integers(0, 255, (9, 9, 3)).astype("uint8")
            image = Image.fromarray(pixels).resize((90, 70), Image.Resampling.NEAREST)
            image.save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def encoded(photographs, tmp_path_factory):
    """Return the features of these images as `benchmark features` writes them."""
    out = tmp_path_factory.mktemp("features")
    words = ["image_folder=images", "--backbone", "emoji", "--output"]
    root = str(photographs / PHOTOGRAPHS)
    assert main(["features", *words, str(out), "--root", root]) == 0
    return read_features(next(out.glob("*.safetensors")))


@pytest.fixture
def check(photographs, encoded, tmp_path, monkeypatch, capsys):
    """A function that stores rows in the order of `rows`, and returns what the command says."""

    def call(*more, rows=range(10), root=photographs, names=NAMES):
        rows, split = list(rows), {"train": [], "val": [], "test": [*range(len(rows))]}
        header = {
            "classnames": list(names), "split": split,
            "logit_scale": 100.0, "normalised": True, "template": "average", "clip": "emoji",
        }  # fmt: skip
        image = normalize(encoded.image[rows], dim=-1).half()
        text = normalize(torch.ones(len(names), image.shape[1]), dim=-1)
        tensors = {"image": image, "label": encoded.label[rows], "text/average": text}
        write_features(tmp_path / "whurs19_emoji.safetensors", tensors, header)
        monkeypatch.setattr(stored_rows, "ASSETS", tmp_path)
        capsys.readouterr()
        words = ["--zero-shot", "--root", str(root), "--backbone", "emoji"]
        code = main(["check-data", *words, PHOTOGRAPHS, *more])
        return code, "".join(capsys.readouterr())

    return call


def test_rows_in_any_order_agree(check):
    code, said = check(rows=[3, 9, 1, 0, 4, 8, 2, 7, 6, 5])
    assert code == 0 and said.startswith("whurs19-images: 10 of 10 photographs")
    assert "encoding with emoji in float32" in said and said.endswith("agrees\n")
    code, said = check("--limit", "4")
    assert code == 0 and "4 of 4 photographs" in said


@pytest.mark.parametrize("missing", ["none", "port/1.png"])  # then a class has a row too few
def test_each_photograph_needs_a_row_of_its_own(check, photographs, encoded, tmp_path, missing):
    rows = [row for row, name in enumerate(encoded.images) if not name.endswith(missing)]
    shutil.copytree(photographs / PHOTOGRAPHS, tmp_path / PHOTOGRAPHS)
    first, second = (tmp_path / PHOTOGRAPHS / "images" / "port" / f"{i}.png" for i in (0, 1))
    shutil.copy(first, second)  # two images are close to row 0, which is that of one
    code, said = check(root=tmp_path, rows=rows)
    assert code == 1 and "9 of 10 photographs" in said
    assert "does not agree, as 99% should" in said


def test_photographs_of_another_class_do_not_agree(check, encoded):
    encoded.label[:] = encoded.label.flip(0)
    try:
        code, said = check()
    finally:
        encoded.label[:] = encoded.label.flip(0)
    assert code == 1 and "0 of 10 photographs" in said


def test_images_that_are_read_otherwise_do_not_agree(check, photographs, tmp_path):
    for file in sorted(photographs.rglob("*.png")):
        copy = tmp_path / file.relative_to(photographs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(file)
        image.resize((64, 64), Image.Resampling.BOX).save(copy)  # not cropped
    code, said = check(root=tmp_path)
    assert code == 1 and "0 of 10 photographs" in said


def test_bad_input_is_one_sentence(check, tmp_path, capsys):
    for more in ({"names": ("port", "beach")}, {"root": tmp_path}):
        code, said = check(**more)
        assert code == 2 and "have the classes of WHU-RS19: `python -m benchmark down" in said
    code, said = check("--backbone", "RN50x4")
    assert code == 2 and "assets/ has features of emoji, not of 'RN50x4'" in said
    assert "no other data set" in check("eurosat")[1]
    assert "no --sentences" in check("--sentences", "clip7")[1]
    assert main(["check-data", PHOTOGRAPHS, "--root", str(tmp_path)]) == 2
    assert "needs --zero-shot" in capsys.readouterr().err


def test_the_real_features_are_of_1005_photographs_under_three_clips():
    files = [read_features(path) for path in stored_rows.ASSETS.glob("whurs19_*.safetensors")]
    assert {file.clip for file in files} == {"RN50", "ViT-B/32", "ViT-L/14"}
    assert all(len(file.label) == 1005 for file in files)
