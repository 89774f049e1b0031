"""The last line of a run: the command that uses it."""

import shlex
from types import SimpleNamespace

import pytest
from paths import ROOT
from yacs.config import CfgNode

from recipe.run import predict_command


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
