"""The last line of a run: the command that uses it."""

import shlex
from types import SimpleNamespace

from paths import ROOT

from recipe.run import predict_command


def test_the_suggested_command_holds_in_any_folder(tmp_path, monkeypatch):
    plugins = ["/my plug-ins/mine.py"]
    cfg = SimpleNamespace(OUTPUT_DIR="out/a run", TRAINER=SimpleNamespace(PLUGINS=plugins))
    test = [SimpleNamespace(impath="data/a cat.png"), SimpleNamespace(impath="data/dog.png")]
    trainer = SimpleNamespace(dm=SimpleNamespace(dataset=SimpleNamespace(test=test)))
    words = ["python", "-m", "benchmark", "predict", "--model-dir"]
    monkeypatch.chdir(ROOT)
    here = [*words, "out/a run", "--plugin", *plugins, "data/a cat.png"]
    assert shlex.split(predict_command(cfg, trainer)) == here
    monkeypatch.chdir(tmp_path)
    there = [*words, f"{tmp_path}/out/a run", "--plugin", *plugins, f"{tmp_path}/data/a cat.png"]
    assert shlex.split(predict_command(cfg, trainer)) == ["cd", str(ROOT), "&&", *there]
