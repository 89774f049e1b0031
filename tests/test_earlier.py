"""Runs, checkpoints and plug-ins of earlier versions still load, resume and report."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from paths import ROOT
from PIL import Image

import train
from benchmark.launch.data import other_clip
from datasets.emoji import ARCHIVE, unpack
from recipe.predictions import read_predictions
from trainers.prompting import load_run
from trainers.prompting.backbones import weights_sha256
from trainers.prompting.embedded import EMBEDDED
from trainers.prompting.errors import UserError
from trainers.prompting.method import METHODS as registered
from trainers.prompting.trainer.settings import check_weights

EARLIER = ROOT / "tests" / "earlier" / "version_0_2"
PLUGIN = str(EARLIER / "anchored.py")
TRAINED = EARLIER / "base2new" / "train_base" / "emoji" / "shots_2"
METHODS = sorted(folder.name for folder in TRAINED.iterdir())
CLIP = EARLIER / "emoji_clip.safetensors"  # which was embedded then
IMAGES = 8


@pytest.fixture(autouse=True, scope="module")
def plugin():
    """Remove the plug-in after these tests."""
    yield
    registered.pop("AnchoredBias")


@pytest.fixture(scope="module")
def emoji():
    """The paths of the embedded OpenMoji test images, by file name."""
    folder = unpack(ARCHIVE, ROOT / "data")
    split = json.loads((folder / "split_emoji.json").read_text())
    return {Path(image).name: folder / "images" / image for image, *_ in split["test"]}


def folder_of(method: str) -> Path:
    return TRAINED / method / "emoji" / "seed1"


@pytest.mark.parametrize("method", METHODS)
def test_a_run_loads_and_predicts_as_before(method, emoji):
    said = read_predictions(folder_of(method))
    run = load_run(folder_of(method), backbone=str(CLIP), plugins=[PLUGIN])
    assert run.method == method and len(run.classnames) == 19
    with torch.no_grad():
        images = [Image.open(emoji[name]).convert("RGB") for name in said["image"][:IMAGES]]
        found = run.model(torch.stack([run.preprocess(image) for image in images])).softmax(-1)
    top = torch.from_numpy(said["top"][:IMAGES]).long()
    expected = torch.from_numpy(said["probability"][:IMAGES]).float()
    assert torch.allclose(found.gather(1, top), expected, atol=1e-3)


def test_a_run_of_the_older_embedded_clip_is_not_used_with_the_present_one():
    with pytest.raises(UserError, match="other weights of 'emoji': SHA-256 1bf1f2e7.*0048aa8"):
        load_run(folder_of("CoOp"))
    record = json.loads((folder_of("CoOp") / "results.json").read_text())
    assert "other weights of 'emoji'" in other_clip(record)


def test_prompts_are_used_with_the_weights_of_their_training():
    check_weights(weights_sha256("emoji"), "emoji")
    check_weights(None, "ViT-B/16")  # of a time without hashes
    for name in ("emoji", "ViT-B/16"):
        with pytest.raises(UserError, match=f"other weights of '{name}': SHA-256 22222222"):
            check_weights("2" * 64, name)


def test_a_run_of_the_older_embedded_clip_is_not_resumed_with_the_present_one(tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(EARLIER / "resume" / "AnchoredBias", out)
    assert train.run(resuming("AnchoredBias", out)) == 2
    assert "other weights of 'emoji'" in capsys.readouterr().err


RESUMED = {
    "PromptSRC": (
        "VLPromptLearner",
        ["TRAINER.PROMPTSRC.GPA_MEAN", "2", "TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT", "25"]
        + ["TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT", "10", "OPTIM.LR", "0.01"],
    ),
    "AnchoredBias": ("prompt_learner", []),
}


def resuming(method: str, out: Path) -> list[str]:
    """Return the words of the command that resumes a run."""
    config = "CoOp" if method == "AnchoredBias" else method
    flags = ["--plugin", PLUGIN, "--trainer", method, "--seed", "1", "--output-dir", str(out)]
    flags += ["--dataset-config-file", str(ROOT / "configs/datasets/emoji.yaml")]
    flags += ["--config-file", str(ROOT / f"configs/trainers/{config}/emoji.yaml")]
    pairs = [*RESUMED[method][1], "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base"]
    return [*flags, *pairs, "OPTIM.MAX_EPOCH", "3", "TRAIN.CHECKPOINT_FREQ", "1"]


@pytest.mark.parametrize("method", RESUMED)
def test_a_run_resumes_and_ends_as_if_it_had_not_been_interrupted(tmp_path, monkeypatch, method):
    monkeypatch.setitem(EMBEDDED, "emoji", CLIP)
    model, _ = RESUMED[method]
    out = tmp_path / "run"
    shutil.copytree(EARLIER / "resume" / method, out)
    assert train.run(resuming(method, out)) == 0
    assert "epoch [3/3]" in (log := (out / "log.txt").read_text()) and "epoch [2/3]" not in log
    ended = torch.load(out / model / "model.pth.tar-3", weights_only=True)
    expected = torch.load(out / "expected.pth.tar", weights_only=True)
    for name, value in expected["state_dict"].items():
        assert torch.allclose(ended["state_dict"][name], value, atol=1e-5), name
    accuracy = json.loads((EARLIER / "resume" / method / "results.json").read_text())["accuracy"]
    assert json.loads((out / "results.json").read_text())["accuracy"] == pytest.approx(
        accuracy, 0.8
    )


def test_runs_are_reported_with_the_numbers_in_their_records(capsys):
    from benchmark.__main__ import main

    assert main(["report", str(EARLIER), "--published", "off", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    accuracy = {}
    for path in (EARLIER / "base2new").rglob("results.json"):
        record = json.loads(path.read_text())
        accuracy[record["trainer"], record["subsample_classes"]] = record["accuracy"]
    assert sorted(row["trainer"] for row in rows) == METHODS
    for row in rows:
        for classes in ("base", "new"):
            assert row[f"{classes}_mean"] == pytest.approx(accuracy[row["trainer"], classes])
