"""Runs on images with several labels, from a table to a record, and what refuses them."""

import numpy as np
import pytest
import tiny
import torch
from paths import ROOT
from PIL import Image
from safetensors.torch import load_file

from benchmark.__main__ import main
from benchmark.protocols.configs import IMAGE_FOLDER
from trainers.prompting.record.several import mean_interval

LABELS = ["sky", "sky;sea", "sea;?sand", "sand", "sand;sky", ""] * 5


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    lines = ["path,labels"]
    for i, labels in enumerate(LABELS):
        colour = (80 * ("sky" in labels) + i, 80 * ("sea" in labels), 80 * ("sand" in labels))
        Image.new("RGB", (32, 32), colour).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{labels}")
    file = folder / "labels.csv"
    file.write_text("\n".join(lines))
    return file


WORDS = ["DATASET.NAME", "ImageFolder", "DATASET.NUM_SHOTS", "-1"]


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert tiny.run(table, "CoOp", out, 1, extra=WORDS) == 0
    return out


def test_a_training_learns_from_several_labels(trained):
    record = tiny.results(trained)
    assert record["several"] and 0 < record["map"] <= 100 and record["num_classes"] == 3
    assert "accuracy" not in record and (trained / "scores.npz").is_file()
    said = (trained / "log.txt").read_text()
    assert "Loading evaluator: MultiLabel in place of Classification\n" in said


def test_features_have_several_labels(table, trained, tmp_path, capsys):
    clip = str(tiny.GOLDEN / "tiny_clip_seed0.safetensors")
    words = ["--root", table, "--backbone", clip, "--output", tmp_path]
    assert main(["features", IMAGE_FOLDER, *map(str, words)]) == 0
    (file,) = tmp_path.glob("*.safetensors")
    label = load_file(file)["label"]
    assert label.dtype == torch.int8 and label.shape == (30, 3) and -1 in label
    found = {}
    for name, rows in (("images", []), ("rows", ["DATASET.FEATURES", str(file)])):
        arguments = tiny.arguments(table, "ZeroshotCLIP", tmp_path / name, 1)
        if rows:  # which name the CLIP
            at = arguments.index("--backbone")
            del arguments[at : at + 2]
        assert tiny.train.run([*arguments, *WORDS, *rows]) == 0
        found[name] = tiny.results(tmp_path / name)["map"]
    assert found["images"] == pytest.approx(found["rows"], abs=0.01)


@pytest.mark.slow
def test_what_the_page_says_of_the_embedded_clip(tmp_path):
    found = {}
    for name in ("ZeroshotCLIP", "LinearProbe"):
        config = ROOT / "configs" / "trainers" / name / "emoji.yaml"
        words = ["--seed", "1", "--trainer", name, "--config-file", str(config)]
        words += ["--dataset-config-file", str(ROOT / "configs/datasets/emoji_scenes.yaml")]
        assert tiny.train.run([*words, "--output-dir", str(tmp_path / name)]) == 0
        scores = np.load(tmp_path / name / "scores.npz")
        label, logit = scores["label"], scores["logit"].astype(float)
        found[name] = [100 * x for x in mean_interval(label, logit)]
    (low, high), better = found["ZeroshotCLIP"], found["LinearProbe"]
    assert low > 100 * (label == 1).mean() and better[0] > high
    page = (ROOT / "docs" / "several_labels.md").read_text("utf-8")
    assert f"(95%: {low:.1f} to {high:.1f})" in page
    assert f"({better[0]:.1f} to {better[1]:.1f})" in page


@pytest.mark.parametrize("trainer, words, why", [
    ("TCP", [], "TCP takes one label an image"),
    ("CoOp", ["TEST.STREAM", "blocks"], "TEST.STREAM is blocks, which is for images with one"),
    ("CoOp", ["TRAIN.ATTACK", "pgd"], "TRAIN.ATTACK is pgd, which is for images with one"),
    ("CoOp", ["TEST.OOD", "['TinyColours']"], "TEST.OOD is ['TinyColours'], which is for images"),
    ("CoOp", ["DATASET.IMBALANCE", "2"], "IMBALANCE is 2.0, which is for images with one"),
    ("CoOp", ["DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler"], "images of one class"),
    ("CoOp", ["DATASET.SUBSAMPLE_CLASSES", "old"], "SUBSAMPLE_CLASSES is all, base, new, both"),
])  # fmt: skip
def test_what_is_for_one_label(table, tmp_path, capsys, trainer, words, why):
    assert tiny.run(table, trainer, tmp_path / "run", 1, extra=[*WORDS, *words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["visualize", "words"])
def test_commands_for_one_label(trained, capsys, command):
    assert main([command, "--model-dir", str(trained)]) == 2
    assert "is for images with one label, and these have several: " in capsys.readouterr().err
