"""Runs on rows of features that cannot read images: each says what is missing."""

import shutil

import pytest
import torch
from feature_files import TEMPLATE, content, write
from paths import GOLDEN, ROOT
from PIL import Image

import train
from benchmark.__main__ import main

FEATURES = ROOT / "configs" / "datasets" / "features.yaml"
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
NO_IMAGES = {
    "unknown weights": ({"clip": "theirs"}, "it does not have the SHA-256 of their CLIP 'theirs'"),
    "none here": ({}, "their CLIP 'gone.safetensors' is not here: give --backbone its file"),
    "a sentence": ({"template": "a {}."}, "their sentence is 'a {}.', not 'a photo of a {}.'"),
    "sentences": ({}, "only the features of its sentences 'mine' are known: train again on"),
    "another encoder": ({}, "'tiny.safetensors' gives others (width 16, not 64): train"),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_a_run_on_features_that_reads_no_images(tmp_path, monkeypatch, capsys, case):
    header, why = NO_IMAGES[case]
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, "tiny.safetensors")
    rows = content()[0][f"text/{TEMPLATE}"]
    more = {"text/a {}.": rows, "sentence/mine": rows.clone()}
    more["sentence_of/mine"] = torch.arange(len(rows))
    file = write(tmp_path / "a.safetensors", more, {"clip": "tiny.safetensors"} | header)
    words = [
        "--trainer",
        "TipAdapter",
        "--dataset-config-file",
        str(FEATURES),
        "--output-dir",
        "run",
    ]
    words += ["--sentences", "mine"] * (case == "sentences")
    assert train.run([*words, "DATASET.NUM_SHOTS", "2", "DATASET.FEATURES", str(file)]) == 0
    words = ["--model-dir", "run"] + ["--backbone", "gone.safetensors"] * (case == "none here")
    Image.new("RGB", (8, 8)).save("x.png")
    assert main(["predict", *words, "x.png"]) == 2
    assert (said := capsys.readouterr().err).count("\n") == 1, said
    assert "was trained on features and cannot read images, as " + why in said.replace(
        f"{tmp_path}/", ""
    ), said
