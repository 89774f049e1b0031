"""Tests of `python -m tools.loading`, which measures the loader and the training step."""

import sys

import pytest
from paths import ROOT

from tools import loading, run
from trainers.prompting import UserError

FLAGS = ["--dataset-config-file", str(ROOT / "configs" / "datasets" / "emoji.yaml")]


def config(trainer):
    return ["--trainer", trainer, "--config-file",
            str(ROOT / "configs" / "trainers" / trainer / "emoji.yaml")]  # fmt: skip


def test_the_table_has_the_rates_of_loader_and_step(tmp_path, capsys):
    root = ["--root", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    loading.main([*FLAGS, *config("CoOp"), *root, "DATASET.NUM_SHOTS", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CoOp on Emoji: 37 training images, batches of 32, 0 workers, cpu"
    rates = {line.rsplit(None, 2)[0].strip(): line.split()[-2:] for line in lines[3:6]}
    assert list(rates) == ["loader, first epoch", "loader, later", "training step"]
    step = float(rates["training step"][0])
    for rate, ratio in rates.values():
        assert float(rate) > 0
        assert float(rate) / step == pytest.approx(float(ratio), rel=0.1)
    assert not (tmp_path / "out").exists()


def test_the_default_is_align_on_emoji_and_the_help_is_of_the_tool(tmp_path, capsys, monkeypatch):
    cfgs = []
    monkeypatch.setattr(loading, "build_trainer", lambda cfg: cfgs.append(cfg) or stop())

    def stop():
        raise UserError("far enough")

    with pytest.raises(UserError, match="far enough"):
        loading.main([])
    assert (cfgs[0].TRAINER.NAME, cfgs[0].DATASET.NAME) == ("ALIGN", "Emoji")
    with pytest.raises(SystemExit, match="0"):
        loading.main(["--help"])
    said = capsys.readouterr().out
    assert "python -m tools.loading" in said and "Measure images per second" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (config("ZeroshotCLIP"), "ZeroshotCLIP has nothing to train: choose another --trainer"),
        (["--trainer", "ALGN"], "There is no trainer 'ALGN': did you mean 'ALIGN'?"),
        ([*config("CoOp"), "DATASET.NAME", "DTD"], "There is no data set 'DTD'"),
    ],
)
def test_bad_input_is_one_sentence(flags, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["loading.py", *FLAGS, *flags])
    with pytest.raises(SystemExit) as ended:
        run("loading", loading.main)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
