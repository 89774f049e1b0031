"""Refusals before the first run: data without validation images, unknown keys."""

import json

import pytest
from paths import ROOT

import train
from benchmark.__main__ import main
from benchmark.launch.checks import check, check_settings, check_validation
from benchmark.launch.engine import Engine, Settings
from benchmark.protocols import BASE2NEW
from benchmark.protocols.configs import TrainerConfigs
from train import parse_args, setup_cfg
from trainers.prompting.errors import UserError

EMOJI = ["--dataset-config-file", str(ROOT / "configs/datasets/emoji.yaml")]


def tune(tmp_path, capsys, *words) -> str:
    asked = ["--trainers", "CoOp", "--seeds", "1", "--output", str(tmp_path / "output")]
    assert main(["base2new", *words, *asked, "TEST.SPLIT", "val"]) == 2
    assert not (tmp_path / "output").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_data_without_validation_images(tmp_path, capsys):
    line = tune(tmp_path, capsys, "emoji_food", "--root", str(tmp_path))
    assert line == (
        "python -m benchmark base2new: emoji_food lacks validation images: tune on other "
        "data sets, and use the settings chosen there (--config)"
    )


def test_validation_images_that_are_test_images(tmp_path):
    """ImageNet has such validation images."""
    names = {"trainer": "CoOp", "config": "a", "seed": 1, "shots": 1, "dataset": "imagenet"}
    run = BASE2NEW.run(tmp_path, "base", **names)
    with pytest.raises(UserError, match="of imagenet are its test images, on which settings must"):
        check(run, {"a.png", "b.png"}, {"b.png"})
    check(run, {"a.png"}, {"b.png"})


def test_settings_are_resolved_once(tmp_path, monkeypatch):
    """For each method on one data set, and for one of them on each other data set."""
    resolved = []
    monkeypatch.setattr(train, "setup_cfg", lambda args: resolved.append(args) or setup_cfg(args))
    asked = {"trainers": ["CoOp", "KgCoOp"], "shots": 2}
    runs = BASE2NEW.plan(tmp_path, ["emoji", "emoji_openmoji_a"], [1, 2], TrainerConfigs(), **asked)
    settings = Settings(opts=("TEST.SPLIT", "val"))
    check_settings(runs, settings)
    check_validation(Engine(runs, settings))
    assert len(resolved) == 2 + 1
    check_settings(runs, Settings(opts=("TEST.SPLIT", "val", "OPTIM.LR", "0.1")))
    assert [args.opts[-1] for args in resolved[3:]] == ["0.1", "0.1"]


@pytest.mark.slow
def test_a_real_tuning_uses_validation_images_only(tmp_path):
    words = ["emoji", "--vary", "OPTIM.LR=0.003,0.03", "--trainers", "CoOp", "--seeds", "1"]
    words += ["--shots", "2", "--output", str(tmp_path), "OPTIM.MAX_EPOCH", "1"]
    assert main(["base2new", *words, "TEST.SPLIT", "val"]) == 0
    assert main(["tune", str(tmp_path)]) == 0
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert [(r["split"], r["num_classes"], r["num_test"]) for r in results] == [("val", 19, 38)] * 2
    best = max(results, key=lambda result: result["accuracy"])
    (chosen,) = tmp_path.rglob("emoji_tuned_2.yaml")
    cfg = setup_cfg(parse_args(["--config-file", str(chosen), "--trainer", "CoOp", *EMOJI]))
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH) in {
        (r["config"]["OPTIM"]["LR"], 1) for r in results if r["accuracy"] == best["accuracy"]
    }
