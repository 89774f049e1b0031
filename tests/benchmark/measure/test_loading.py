"""The loader measured beside the step."""

import pytest
from paths import ROOT

from benchmark.__main__ import main
from benchmark.measure import loading
from trainers.prompting import UserError

FLAGS = ["--dataset-config-file", str(ROOT / "configs" / "datasets" / "emoji.yaml")]


def config(trainer):
    return ["--trainer", trainer, "--config-file",
            str(ROOT / "configs" / "trainers" / trainer / "emoji.yaml")]  # fmt: skip


def test_a_table_of_loader_and_step(tmp_path, capsys):
    root = ["--root", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    assert main(["loading", *FLAGS, *config("CoOp"), *root, "DATASET.NUM_SHOTS", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CoOp on Emoji: 37 training images, batches of 32, 0 workers, cpu"
    rates = {line.rsplit(None, 2)[0].strip(): line.split()[-2:] for line in lines[3:6]}
    assert list(rates) == ["loader, first epoch", "loader, later", "training step"]
    step = float(rates["training step"][0])
    for rate, ratio in rates.values():
        assert float(rate) > 0
        assert float(rate) / step == pytest.approx(float(ratio), rel=0.1)
    assert not (tmp_path / "out").exists()


def test_without_flags_it_is_align_on_emoji_and_the_help_is_its_own(tmp_path, capsys, monkeypatch):
    cfgs = []
    monkeypatch.setattr(loading, "build_trainer", lambda cfg: cfgs.append(cfg) or stop())

    def stop():
        raise UserError("far enough")

    assert main(["loading"]) == 2 and cfgs[0].OPTIM.MAX_EPOCH
    assert (cfgs[0].TRAINER.NAME, cfgs[0].DATASET.NAME) == ("ALIGN", "Emoji")
    with pytest.raises(SystemExit, match="0"):
        main(["loading", "--help"])
    said = capsys.readouterr().out
    assert "python -m benchmark loading" in said and "Images per second" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (config("ZeroshotCLIP"), "ZeroshotCLIP has nothing to train: choose another --trainer"),
        (["--trainer", "ALGN"], "There is no trainer 'ALGN': did you mean 'ALIGN'?"),
        ([*config("CoOp"), "DATASET.NAME", "DTD"], "There is no data set 'DTD'"),
    ],
)
def test_bad_input_is_one_sentence(flags, message, capsys):
    assert main(["loading", *FLAGS, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
