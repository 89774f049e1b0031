"""The last line of a run: the command that uses it."""

import shlex
from types import SimpleNamespace

import pytest
from paths import ROOT
from yacs.config import CfgNode

from recipe.run import predict_command


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_suggested_command_works_in_any_folder(split, tmp_path, monkeypatch):
    plugins = ["/my plug-ins/mine.py"]
    cfg = CfgNode({"OUTPUT_DIR": "out/a run", "TRAINER": {"PLUGINS": plugins}})
    cfg.TEST = CfgNode({"SPLIT": split})
    data = SimpleNamespace(**{split: [SimpleNamespace(impath="data/a cat.png")]})
    trainer = SimpleNamespace(dm=SimpleNamespace(dataset=data))
    words = ["python", "-m", "benchmark", "predict", "--model-dir"]
    monkeypatch.chdir(ROOT)
    here = [*words, "out/a run", "--plugin", *plugins, "data/a cat.png"]
    assert shlex.split(predict_command(cfg, trainer)) == here
    monkeypatch.chdir(tmp_path)
    there = [*words, f"{tmp_path}/out/a run", "--plugin", *plugins, f"{tmp_path}/data/a cat.png"]
    assert shlex.split(predict_command(cfg, trainer)) == ["cd", str(ROOT), "&&", *there]
