"""Invalid settings and data are refused before the first run, and in a dry run."""

import json
import sys
from dataclasses import replace

import pytest
from outcomes import leave, outcome
from paths import ROOT

import train
from benchmark.__main__ import main
from benchmark.launch import checks
from benchmark.launch.checks import check, check_settings, check_validation
from benchmark.launch.engine import Engine, Settings
from benchmark.protocols import BASE2NEW
from benchmark.protocols.configs import TrainerConfigs
from train import setup_cfg
from trainers.prompting import UserError

PROTOCOL = ["base2new", "emoji", "--trainers", "CoOp ALIGN", "--seeds", "1"]


def test_a_key_of_one_method_is_for_several_and_config_files_are_named(tmp_path, capsys):
    words = ["base2new", "emoji", "--seeds", "1", "--output", str(tmp_path), "--dry-run"]
    key = ["TRAINER.ALIGN.BETA", "0.5"]
    assert main([*words, "--trainers", "CoOp ALIGN", *key]) == 0
    said = capsys.readouterr()
    assert said.out.count("--shared ") == 4 and "does not read" not in said.err
    config = ["--config", str(ROOT / "configs/trainers/ALIGN/emoji.yaml")]
    assert main([*words, "--trainers", "CoOp", *config]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("warning: config files set TRAINER.ALIGN.BETA, TRAINER.ALIGN.")


def test_without_pytorch_runs_are_listed_unchecked(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "train", None)  # as if it did not import
    assert main([*PROTOCOL, "--output", str(tmp_path), "--dry-run", "OPTIM.LRR", "0.1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("# run: ") == 4 and "settings are not checked here" in said.err


def test_a_misspelled_key_beside_finished_runs_is_refused(tmp_path, capsys):
    one = ["base2new", "emoji", "--trainers", "ZeroshotCLIP", "--seeds", "1"]
    one += ["--output", str(tmp_path)]
    leave(tmp_path, [outcome("ZeroshotCLIP", 1, part, 50.0) for part in ("base", "new")])
    for record in tmp_path.rglob("results.json"):
        record.write_text(record.read_text().replace('"dataset": "emoji"', '"dataset": "Emoji"'))
    assert main(one) == 0 and "ZeroshotCLIP" in capsys.readouterr().out
    assert main([*one, "TRAINER.ALIGN.BETTA", "0"]) == 2
    said = capsys.readouterr()
    assert "TRAINER.ALIGN has no 'BETTA': did you mean 'BETA'?" in said.err and not said.out


def test_methods_that_a_stream_does_not_change_are_skipped(capsys):
    runs = [outcome(name, 1, "base", 1.0).run for name in ("CoOp", "TDA", "StatA", "Unknown")]
    assert checks.for_streams(runs, ()) == runs
    assert checks.for_streams(runs, ("TEST.STREAM", "separate:8")) == runs[1:]
    said = capsys.readouterr().err
    assert said == "Skipped: CoOp classifies each image by itself, in any TEST.STREAM\n"
    varied = [replace(run, opts=("TEST.STREAM", "shuffled")) for run in runs[:1]] + runs[1:]
    assert checks.for_streams(varied, ("TEST.STREAM", "separate:8")) == varied


def test_data_without_validation_images(tmp_path, capsys):
    words = ["base2new", "emoji_food", "--trainers", "CoOp", "--seeds", "1", "TEST.SPLIT", "val"]
    assert main([*words, "--root", str(tmp_path), "--output", str(tmp_path / "output")]) == 2
    said = capsys.readouterr().err
    assert "emoji_food has no validation images" in said and said.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_validation_images_that_are_test_images(tmp_path):
    """ImageNet has such validation images."""
    names = {"trainer": "CoOp", "config": "a", "seed": 1, "shots": 1, "dataset": "imagenet"}
    run = BASE2NEW.run(tmp_path, "base", **names)
    with pytest.raises(UserError, match="imagenet has no validation images, or they are its test"):
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


@pytest.mark.parametrize("words", ["base2new emoji", "cross_dataset --source emoji"])
def test_new_classes_and_targets_stay_unseen_where_settings_are_tried(words, tmp_path, capsys):
    more = ["--vary", "OPTIM.LR=0.1,0.2", "--trainers", "CoOp", "--seeds", "1", "--dry-run"]
    assert main([*words.split(), "--output", str(tmp_path), *more, "TEST.SPLIT", "val"]) == 0
    said = capsys.readouterr().out
    assert said.count("# run: ") == said.count("TEST.SPLIT val") == 2 and "eval-only" not in said


@pytest.mark.slow
def test_settings_tried_on_validation_images_see_no_other(tmp_path, capsys):
    words = ["emoji", "--vary", "OPTIM.LR=0.003,0.03", "--trainers", "CoOp", "--seeds", "1"]
    words += ["--shots", "2", "--output", str(tmp_path), "OPTIM.MAX_EPOCH", "1"]
    assert main(["base2new", *words, "TEST.SPLIT", "val"]) == 0
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert [(r["split"], r["num_classes"], r["num_test"]) for r in results] == [("val", 19, 38)] * 2
    said = capsys.readouterr().out
    assert "accuracy (%) on val images" in said and "\nCoOp, LR 0.03 " in said
