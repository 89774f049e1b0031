"""A run: the command that uses it, what it keeps of sentences, and rows that read no images."""

import json
import shlex
import shutil
from types import SimpleNamespace

import feature_files
import pytest
import tiny
from feature_files import TEMPLATE, content
from paths import GOLDEN, ROOT
from PIL import Image
from tiny import results
from yacs.config import CfgNode

import train
from benchmark.__main__ import main
from benchmark.records import value_of
from recipe.configs import with_located_files
from recipe.run import predict_command
from trainers.prompting import load_run
from trainers.prompting.storage.run_record import sentences_text


def words_of(last):
    """Return the words of the command as a shell reads them; each path is in another line."""
    lines = predict_command(last).split(" \\\n")
    assert len(lines) == 4 + (lines[0][:2] == "cd")
    return shlex.split(" ".join(lines))


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_suggested_command_works_in_any_folder(split, tmp_path, monkeypatch):
    plugins = ["/my plug-ins/mine.py"]
    cfg = CfgNode({"OUTPUT_DIR": "out/a run", "TRAINER": {"PLUGINS": plugins}})
    cfg.TEST = CfgNode({"SPLIT": split})
    data = SimpleNamespace(**{split: [SimpleNamespace(impath="data/a cat.png")]})
    last = SimpleNamespace(cfg=cfg, dataset=data)
    words = ["python", "-m", "benchmark", "predict", "--model-dir"]
    monkeypatch.chdir(ROOT)
    here = [*words, "out/a run", "--plugin", *plugins, "data/a cat.png"]
    assert words_of(last) == here
    monkeypatch.chdir(tmp_path)
    there = [*words, f"{tmp_path}/out/a run", "--plugin", *plugins, f"{tmp_path}/data/a cat.png"]
    assert words_of(last) == ["cd", str(ROOT), "&&", *there]


def write(path, *texts):
    path.write_text(
        json.dumps({name: [f"{name} {text}" for text in texts] for name in tiny.COLOURS})
    )
    return str(path)


def run(folder, file, *more, name="run"):
    return tiny.run(folder, "TaskRes", folder / name, 1, *more, "--sentences", file)


def test_a_run_records_and_keeps_the_sentences_of_its_file(tmp_path, capsys):
    file = write(tmp_path / "a.json", "from above", "at night")
    assert run(tmp_path, file) == 0
    assert f"Sentences: '{file}': " in capsys.readouterr().out
    record = results(tmp_path / "run")
    name, digest = record["sentences"].split()
    assert (name, len(digest), record["beyond"]) == ("a.json", 12, ["sentences"])
    assert value_of(record, "DATASET.SENTENCES") == sentences_text(file)
    evaluates = "--eval-only", "--model-dir", str(tmp_path / "run")
    write(tmp_path / "a.json", "from below")
    assert value_of(record, "DATASET.SENTENCES") != sentences_text(file)
    capsys.readouterr()
    assert run(tmp_path, file, *evaluates, name="other") == 2
    assert "trained otherwise (DATASET.SENTENCES is 'a.json" in capsys.readouterr().err
    (tmp_path / "a.json").unlink()
    model = load_run(tmp_path / "run").model
    assert model.settings.sentences.lists[0][1].endswith(" at night")


def test_a_rule_without_sentences_is_refused(tmp_path, capsys):
    assert tiny.run(tmp_path, "TaskRes", extra=["DATASET.SENTENCES_RULE", "raw_mean"]) == 2
    assert "DATASET.SENTENCES_RULE is set without sentences" in capsys.readouterr().err


def test_files_of_sentences_start_from_the_folder_of_a_config_or_command():
    located = with_located_files({"DATASET.SENTENCES": "a/b.json"}, "/at")
    assert located == {"DATASET.SENTENCES": "/at/a/b.json"}
    named = {"DATASET.SENTENCES": "clip7", "DATASET.FEATURES": ""}
    assert with_located_files(named, "/at") == named


# ------------------------------------------------------------------ on rows of features

FEATURES = ROOT / "configs" / "datasets" / "features.yaml"
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
NO_IMAGES = {
    "unknown weights": ({"clip": "theirs"}, "it does not have the SHA-256 of their CLIP 'theirs'"),
    "a sentence": ({"template": "a {}."}, "their sentence is 'a {}.', not 'a photo of a {}.'"),
    "another encoder": ({}, "'tiny.safetensors' gives others (width 16, not 64): train"),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_a_run_on_features_that_reads_no_images(tmp_path, monkeypatch, capsys, case):
    header, why = NO_IMAGES[case]
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, "tiny.safetensors")
    rows = content()[0][f"text/{TEMPLATE}"]
    file = feature_files.write(
        tmp_path / "a.safetensors", {"text/a {}.": rows}, {"clip": "tiny.safetensors"} | header
    )
    words = ["--trainer", "TipAdapter", "--dataset-config-file", str(FEATURES)]
    words += ["--output-dir", "run"]
    assert train.run([*words, "DATASET.NUM_SHOTS", "2", "DATASET.FEATURES", str(file)]) == 0
    words = ["--model-dir", "run"]
    Image.new("RGB", (8, 8)).save("x.png")
    assert main(["predict", *words, "x.png"]) == 2
    assert (said := capsys.readouterr().err).count("\n") == 1, said
    said = said.replace(f"{tmp_path}/", "")
    assert f"was trained on features and cannot read images, as {why}" in said
