"""The record of an evaluation has the settings of the training that it loads."""

import shutil

import pytest
import torch
from tiny import results, run, write_halves

from benchmark.__main__ import main
from benchmark.launch.data import earlier_digests
from benchmark.records import value_of

OF_TRAINING = ["DATASET.NUM_SHOTS", "2", "OPTIM.LR", "0.02", "OPTIM.NAME", "adam"]
NOISY = ["DATASET.NAME", "ImageFolder", "DATASET.LABEL_NOISE", "0.5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert run(root, "CoOp", None, 1) == 0
    return root


@pytest.fixture
def weights(trained, tmp_path):
    """The checkpoint of a CoOp of one epoch, whose run is copied to `output`."""
    shutil.copytree(trained / "output", tmp_path / "output")
    return tmp_path / "output" / "prompt_learner" / "model.pth.tar-1"


def evaluated(folder, *extra, trainer="CoOp", flags=(), root=None, epochs=7):
    flags = ("--eval-only", "--model-dir", str(folder / "output"), *flags)
    assert run(root or folder, trainer, folder / "evaluated", epochs, *flags, extra=extra) == 0
    return results(folder / "evaluated")


def test_what_the_command_of_the_evaluation_says_of_the_training_does_not_count(tmp_path, capsys):
    root = write_halves(tmp_path / "halves")
    out = tmp_path / "output"
    assert run(root, "CoOp", out, 2, extra=[*NOISY, *OF_TRAINING]) == 0
    capsys.readouterr()
    more = ["DATASET.NAME", "ImageFolder", "DATASET.NUM_SHOTS", "-1", "TEST.SPLIT", "val"]
    found = evaluated(tmp_path, *more, flags=("--seed", "3"), root=root)
    drawn = {"images": 10, "wrong_labels": 5, "left_out": 0}  # 2 of each of 5 classes
    assert results(out)["drawn"] == found["drawn"] == drawn
    assert (found["shots"], found["seed"], found["split"]) == (2, 1, "val")
    names = ("NUM_SHOTS", "LABEL_NOISE", "IMBALANCE")
    assert [value_of(found, f"DATASET.{name}") for name in names] == [2, 0.5, 1.0]
    names = ("LR", "NAME", "MAX_EPOCH")
    assert [value_of(found, f"OPTIM.{name}") for name in names] == [0.02, "adam", 2]
    assert (
        "The record has settings of the training: DATASET.NUM_SHOTS 2 (not -1), OPTIM.LR 0.02 (not "
        "0.01), OPTIM.MAX_EPOCH 2 (not 7), OPTIM.NAME adam (not sgd), SEED 1 (not 3)\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("trainer", "pairs", "drawn"),
    [
        ("TDA", ["DATASET.LABEL_NOISE", "0.5", "TRAINER.TDA.VIEWS", "1"], (0, 0, 0)),
        ("TipAdapter", ["DATASET.LABEL_NOISE", "0.5"], (10, 5, 0)),
        ("TipAdapter", ["DATASET.LABEL_NOISE", "0.01"], (10, 0, 0)),
        ("TipAdapter", ["DATASET.IMBALANCE", "1.1"], (10, 0, 0)),
        ("CoOp", ["DATASET.IMBALANCE", "2"], (7, 0, 3)),
        ("TipAdapter", [], None),
    ],
)
def test_what_noise_and_imbalance_change_is_counted(tmp_path, trainer, pairs, drawn):
    root = write_halves(tmp_path / "halves")
    extra = ["DATASET.NAME", "ImageFolder", "DATASET.NUM_SHOTS", "2", *pairs]
    assert run(root, trainer, tmp_path / "output", 1, extra=extra) == 0
    counts = (
        dict(zip(("images", "wrong_labels", "left_out"), drawn, strict=True)) if drawn else None
    )
    assert results(tmp_path / "output")["drawn"] == counts


def test_a_random_network_is_not_evaluated(tmp_path, capsys):
    extra = ["TRAINER.TPT.COCOOP", "True", "TRAINER.TPT.BATCH_SIZE", "2"]
    assert run(tmp_path, "TPT", None, 1, extra=[*extra, "TRAINER.TPT.SELECTION_P", "0.5"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: TPT with COCOOP True starts from a trained CoCoOp, and its network is random: set "
        "MODEL.INIT_WEIGHTS to a checkpoint of CoCoOp"
    )


def test_nothing_is_said_where_both_agree(trained, capsys):
    now, then = evaluated(trained, epochs=1)["run"], results(trained / "output")["run"]
    assert now == then
    assert "The record has settings" not in capsys.readouterr().out


def test_keys_that_may_differ_are_those_of_the_training(tmp_path, capsys):
    assert run(tmp_path, "LoCoOp", None, 1, extra=["lambda_value", "0.5", "topk", "2"]) == 0
    found = evaluated(tmp_path, "lambda_value", "0.75", "topk", "2", trainer="LoCoOp")
    assert value_of(found, "lambda_value") == 0.5
    assert "lambda_value 0.5 (not 0.75)" in capsys.readouterr().out


def test_what_an_evaluation_reads_anew_is_its_own(tmp_path):
    layers = ["TRAINER.MMRLpp.REP_LAYERS", "[2]", "DATASET.SUBSAMPLE_CLASSES"]
    keys = ["TRAINER.MMRLpp.BETA", "0.4", "TRAINER.MMRLpp.REG_WEIGHT", "0.5"]
    assert run(tmp_path, "MMRLpp", None, 1, extra=[*layers, "base"]) == 0
    found = evaluated(tmp_path, *layers, "new", *keys, trainer="MMRLpp")
    assert found["subsample_classes"] == value_of(found, "DATASET.SUBSAMPLE_CLASSES") == "new"
    values = [value_of(found, f"TRAINER.MMRLpp.{key}") for key in ("BETA", "REG_WEIGHT")]
    assert values == [0.4, 1.0]  # the training's


def test_public_checkpoints_do_not_say_it(weights, tmp_path, capsys):
    ours = torch.load(weights, weights_only=False)
    torch.save({key: ours[key] for key in ("state_dict", "epoch")}, weights)
    found = evaluated(tmp_path)
    assert found["shots"] == found["seed"] == value_of(found, "OPTIM.LR") == "unknown"
    assert "DATASET.NUM_SHOTS unknown (not 4)" in capsys.readouterr().out


def test_the_seed_of_a_method_that_adapts_and_its_initial_weights(weights, tmp_path, capsys):
    extra = ["MODEL.INIT_WEIGHTS", str(weights), "DATASET.NUM_SHOTS", "1"]
    more = ["TRAINER.TPT.BATCH_SIZE", "2", "TRAINER.TPT.SELECTION_P", "0.5"]
    more += ["TRAINER.TPT.N_CTX", "16"]
    flags = ("--eval-only", "--seed", "5")
    assert run(tmp_path, "TPT", tmp_path / "tpt", 1, *flags, extra=[*extra, *more]) == 0
    found = results(tmp_path / "tpt")
    assert (found["seed"], found["shots"]) == (5, 4)
    assert value_of(found, "MODEL.INIT_WEIGHTS") == str(weights)
    start = found["start"]
    assert (start["method"], start["shots"], start["place"]) == ("CoOp", 4, str(weights))
    capsys.readouterr()
    assert main(["report", str(tmp_path / "tpt")]) == 0
    said = capsys.readouterr().out
    assert earlier_digests(found) == {"start": start["digest"]}
    state = torch.load(weights, weights_only=False)
    state["state_dict"]["ctx"] += 1
    torch.save(state, weights)
    assert earlier_digests(found)["start"] != start["digest"]
    assert f"{weights} (CoOp on TinyColours (tiny_clip_seed0.safetensors, all classes, 4 " in said
