"""The launcher says once, before the first run, what runs need and this machine lacks."""

import shutil
import sys

import pytest
from PIL import Image
from public_layouts import dtd

from benchmark.__main__ import main
from trainers.prompting import UserError
from trainers.prompting.backbones import check_weights, openai
from trainers.prompting.running import devices

METHODS = ["--trainers", "ZeroshotCLIP CoOp", "--seeds", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, with an empty cache of weights and without a network."""
    monkeypatch.setattr(openai, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openai.clip, "_download", refused)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(url, root):
    raise OSError("no network")


@pytest.fixture
def say(here, capsys):
    """A function that calls a command, checks its code, and returns the lines that it prints."""

    def say(*words, code=2):
        assert main([*words, *METHODS, "--output", str(here / "output")]) == code
        assert not (here / "output").exists()
        said = capsys.readouterr()
        return (said.err if code else said.out).splitlines()

    return say


DOWNLOAD = "`python -m benchmark download {} --root {}` gets them, or says how"


def test_a_bare_machine_is_told_all_at_once(say, here):
    (line,) = say("base2new", "ten", "--root", "my data")
    data, weights = line.removeprefix("python -m benchmark base2new: ").split(" / ")
    start = "40 runs: "
    assert data.startswith(f"{start}caltech101 oxford_pets stanford_cars ")
    root = here / "my data"
    assert data.endswith(f"ucf101 not in '{root}': {DOWNLOAD.format('ten', repr(str(root)))}")
    assert weights.startswith(f"{start}The weights of ViT-B/16 are not on this machine: a run ")
    assert weights.endswith(f"put the file at '{here / 'cache' / 'ViT-B-16.pt'}'")
    *_, more, clip, summary = say("base2new", "ten", "--root", "my data", "--dry-run", code=0)
    assert [more, clip] == [f"# missing for {data}", f"# missing for {weights}"]
    assert summary == "# runs to do: 10 with training, 30 without; finished: 0"


def test_one_reason_is_one_sentence(say, here):
    dtd(here / "data")
    (line,) = say("base2new", "dtd", "--root", "data")
    assert "base2new: 4 runs: The weights of ViT-B/16 could not be downloaded (no network)" in line
    emoji = ["--backbone", "emoji", "--root", "data"]
    (line,) = say("few_shot", "dtd", "eurosat", *emoji, "--shots", "1")
    assert f"few_shot: 2 runs: eurosat not in '{here / 'data'}': " in line
    shutil.rmtree(here / "data" / "dtd" / "images")
    (line,) = say("base2new", "dtd", *emoji)
    assert line.endswith(f": {DOWNLOAD.format('dtd', here / 'data')}")
    (line,) = say("base2new", "dtd", "--backbone", "emoji")
    assert "dtd not in the working folder (there is no --root): `python -m " in line
    assert "--root DATA`" in line
    (line,) = say("base2new", "image_folder=birds", *emoji[:2], "--root", "none")
    asked = "ImageFolder reads the folder or table that --root (DATASET.ROOT) names"
    assert f"4 runs: {asked}, but '{here}" in line
    (line,) = say("base2new", "emoji", "--ood", "imagenet_variants", "--root", "data")
    assert "4 runs: imagenet_a imagenet_r imagenet_sketch imagenetv2 not in" in line
    assert "download imagenet_variants --root" in line


def test_weights_are_fetched_before_the_first_run(here, monkeypatch):
    calls = []
    monkeypatch.setattr(openai.clip, "_download", lambda *words: calls.append(words))
    check_weights("ViT-B/16", fetch=True)
    assert calls == [(openai.RELEASED["ViT-B/16"], str(here / "cache"))]
    (here / "cache").mkdir()
    (here / "cache" / "ViT-B-16.pt").touch()
    check_weights("ViT-B/16", fetch=True)
    check_weights("ViT-B/16")
    check_weights("emoji")
    assert len(calls) == 1


def test_a_model_of_hugging_face_is_not_fetched():
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(UserError, match="no such model of Hugging Face in the cache"):
        check_weights("someone/nothing")


@pytest.mark.parametrize(
    "name, package",
    [("someone/clip", "transformers"), ("open_clip:RN50/openai", "open_clip_torch")],
)
def test_a_missing_package_is_said_before_the_first_run(say, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package.removesuffix("_torch"), None)
    (line,) = say("base2new", "emoji", "--backbone", name)
    assert f"base2new: 4 runs: The backbone '{name}' " in line
    assert line.endswith(f": run `pip install {package}`")


def test_teachers(say, here, monkeypatch):
    monkeypatch.setitem(globals(), "METHODS", ["--trainers", "PromptKD", "--seeds", "1"])
    (line,) = say("base2new", "emoji")
    assert "base2new: 1 run: TRAINER.PROMPTKD.TEACHER is '" in line
    assert line.endswith("/PromptSRC/emoji/seed1', which does not exist: give a trained run")
    (here / "teacher").mkdir()
    given = ["TRAINER.PROMPTKD.TEACHER", "teacher", "TRAINER.PROMPTKD.TEACHER_NAME", "ViT-L/14"]
    (line,) = say("base2new", "emoji", *given)
    assert "base2new: 1 run: The weights of ViT-L/14 could not be downloaded (no network)" in line
    METHODS[1] = "PromptSRC PromptKD"  # the teacher is trained by the same command
    assert say("base2new", "emoji", "--dry-run", code=0)[-1].endswith(
        "2 with training, 2 without; finished: 0"
    )


def test_jobs_may_have_what_the_login_node_lacks(here, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["base2new", "dtd", *METHODS, "--slurm", "--dry-run", "--output", str(here / "output")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/bash") and said.err.count("missing for 4 runs: ") == 2


def test_gpus_that_pytorch_cannot_use_are_named_once(tmp_path, capsys, monkeypatch):
    """A launcher without a GPU is not refused; one beside an idle GPU says so."""
    monkeypatch.setattr(devices, "idle_gpus", lambda: "NVIDIA A100: PyTorch is built for CPUs only")
    for i in range(8):
        folder = tmp_path / "images" / ("ant" if i % 2 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * i, 0, 0)).save(folder / f"{i}.png")
    words = ["few_shot", "image_folder", "--root", str(tmp_path / "images"), "--shots", "1"]
    words += ["--trainers", "ZeroshotCLIP", "--backbone", "emoji", "--output", str(tmp_path / "o")]
    assert main([*words, "--jobs", "1"]) == 0
    told = capsys.readouterr().err
    assert told.count("warning: runs are on the CPU, but the machine has NVIDIA A100: ") == 1
    assert main(words) == 0  # all is done
    assert "warning" not in capsys.readouterr().err
