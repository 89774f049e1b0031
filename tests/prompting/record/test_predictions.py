"""predictions.npz: a run's predictions for each image, and damaged files."""

import json

import numpy as np
import pytest
import torch
from outcomes import COLUMNS, leave, outcome
from tiny import COLOURS, run

from benchmark.__main__ import main
from benchmark.protocols import PROTOCOLS
from benchmark.protocols.base import Run
from benchmark.protocols.launches import write_launch
from benchmark.report import command as report
from trainers.prompting.errors import UserError
from trainers.prompting.record.predictions import (
    NAME,
    Predictions,
    read_predictions,
    write_predictions,
)


def test_predictions_agree_with_the_accuracy_and_can_be_switched_off(tmp_path):
    out = tmp_path / "out"
    assert run(tmp_path, "ALIGN", out, 1) == 0
    arrays = read_predictions(out)
    record = json.loads((out / "results.json").read_text())
    hits = arrays["prediction"] == arrays["label"]
    assert 100 * hits.mean() == pytest.approx(record["accuracy"])
    assert sorted(arrays["image"]) == sorted(f"test_{c}_{i}.png" for c in COLOURS for i in range(4))
    assert arrays["top"].shape == (16, 4)  # there are four classes
    flags = ("--eval-only", "--model-dir", str(out))
    again = tmp_path / "again"
    again.mkdir()
    (out / NAME).rename(again / NAME)  # as if an evaluation with predictions had been there
    assert run(tmp_path, "ALIGN", again, 1, *flags, extra=["TEST.PREDICTIONS", "False"]) == 0
    assert (again / "results.json").exists() and not (again / NAME).exists()


def test_runs_are_compared_by_their_predictions(tmp_path, capsys):
    accuracy = {}
    for trainer in ("ALIGN", "ZeroshotCLIP"):
        out = tmp_path / "output/few_shot/TinyColours/shots_4" / trainer / "tiny/seed1"
        assert run(tmp_path, trainer, out, 4) == 0
        (part,) = (protocol := PROTOCOLS["few_shot"]).parts
        one = {"trainer": trainer, "dataset": "TinyColours", "config": "tiny", "subsample": "all"}
        write_launch(Run(protocol, part, seed=1, shots=4, folder=out, **one))
        accuracy[trainer] = json.loads((out / "results.json").read_text())["accuracy"]
    capsys.readouterr()
    report.main([str(tmp_path / "output"), "--compare", "ALIGN", "--format", "json"])
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    expected = accuracy["ALIGN"] - accuracy["ZeroshotCLIP"]
    assert found["difference"] == pytest.approx(expected) and found["images"] == 16
    assert found["low"] <= expected <= found["high"] and not found["problems"]


def test_arrays_of_known_logits(tmp_path):
    collected = Predictions()
    p = torch.tensor([[0.1, 0.2, 0.05, 0.3, 0.25, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    collected.add_images(["/data/a/1.png", "/data/b/2.png"], torch.tensor([1, 0]))
    collected.add_logits(p.log() + 7)
    write_predictions(tmp_path, collected.columns())
    arrays = read_predictions(tmp_path)
    assert arrays["image"].tolist() == ["a/1.png", "b/2.png"]
    assert arrays["prediction"].tolist() == [3, 0] and arrays["label"].tolist() == [1, 0]
    assert arrays["top"][0, :3].tolist() == [3, 4, 1]
    np.testing.assert_allclose(arrays["probability"][0, :3], [0.3, 0.25, 0.2], rtol=1e-3)
    np.testing.assert_allclose(np.exp(arrays["label_log_probability"]), [0.2, 0.5], rtol=1e-5)


def overwrite(path):
    """Damage the compressed data of an array."""
    content = bytearray(path.read_bytes())
    start = content.index(b"label.npy") + len("label.npy") + 20  # after the sizes
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


DAMAGES = {
    "nothing": lambda path: path.write_bytes(b"PK of nothing"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "compressed": overwrite,
    "objects": lambda path: np.savez(path, **COLUMNS | {"label": np.array([0, None], object)}),
    "a column": lambda path: np.savez(path, label=COLUMNS["label"]),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_named(tmp_path, damage):
    assert read_predictions(tmp_path) is None
    columns = COLUMNS | {"turn": np.arange(2)}
    write_predictions(tmp_path, columns)
    assert read_predictions(tmp_path).keys() == columns.keys()
    DAMAGES[damage](tmp_path / NAME)
    with pytest.raises(UserError, match=f"{NAME}' cannot be read"):
        read_predictions(tmp_path)


DAMAGES |= {
    "wider": lambda path: np.savez(
        path, **COLUMNS | {"top": np.zeros((2, 3), "int32"), "probability": np.ones((2, 3))}
    ),
}


@pytest.mark.slow
def test_one_damaged_file_leaves_the_others_in_the_report(tmp_path, capsys):
    outcomes = [outcome(name, seed, "base", 50.0) for name in "AB" for seed in (1, 2)]
    leave(tmp_path, outcomes)
    for record in tmp_path.rglob("results.json"):
        write_predictions(record.parent, COLUMNS)
    DAMAGES["compressed"](next(tmp_path.rglob("A/emoji/seed1")) / NAME)
    assert main(["report", str(tmp_path), "--compare", "A"]) == 0
    said = capsys.readouterr().out
    why = f"{NAME}' cannot be read ("
    assert why in said and "equal (one seed)" in said
    for view in ("--metrics", "--classes"):
        assert main(["report", str(tmp_path), view, "--plots", str(tmp_path / "plots")]) == 0
        err = capsys.readouterr().err
        assert "not in the plots: A, Base-to-new, emoji, base, 16 shots: " in err and why in err
    assert len(list((tmp_path / "plots").iterdir())) == 6


def test_runs_with_more_of_the_likeliest_classes_share_a_plot(tmp_path, capsys):
    leave(tmp_path, [outcome("A", seed, "base", 50.0) for seed in (1, 2)])
    for record in tmp_path.rglob("results.json"):
        write_predictions(record.parent, COLUMNS)
    DAMAGES["wider"](next(tmp_path.rglob("A/emoji/seed1")) / NAME)
    assert main(["report", str(tmp_path), "--metrics", "--plots", str(tmp_path / "plots")]) == 0
    assert (
        len(list((tmp_path / "plots").iterdir())) == 3 and "not in" not in capsys.readouterr().err
    )
