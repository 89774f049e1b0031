"""A run: the command that uses it, and what it records and keeps of sentences."""

import json
import shlex
from types import SimpleNamespace

import pytest
import tiny
from paths import ROOT
from yacs.config import CfgNode

from benchmark.launch.data import other_sentences
from recipe.configs import with_located_files
from recipe.run import predict_command
from trainers.prompting import load_run


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
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    name, digest = record["sentences"].split()
    assert (name, len(digest), record["beyond"]) == ("a.json", 12, ["sentences"])
    assert record["config"]["DATASET"]["SENTENCES"] == file and other_sentences(record) is None
    evaluates = "--eval-only", "--model-dir", str(tmp_path / "run")
    write(tmp_path / "a.json", "from below")
    assert "the sentences a.json" in other_sentences(record)
    capsys.readouterr()
    assert run(tmp_path, file, *evaluates, name="other") == 2
    assert "trained with other settings (DATASET.SENTENCES a.json" in capsys.readouterr().err
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
