"""Trainings in several stages: what learns in each, resuming at every epoch, bad shares."""

import shutil

import pytest
import torch
from cases import slow_but
from tiny import run

SHARE = "TRAINER.TWO_SFS.N_ITERS_FRAC"


def checkpoint(folder, epoch):
    return torch.load(folder / "two_sfs" / f"model.pth.tar-{epoch}", weights_only=True)


@pytest.mark.parametrize("share", slow_but(["0.25", "0.4"], "0.25"))  # an epoch's end; inside one
def test_resuming_in_any_stage_changes_nothing(tmp_path, monkeypatch, share):
    extra = [SHARE, share, "TRAIN.CHECKPOINT_FREQ", "1"]
    whole = tmp_path / "whole"
    assert run(tmp_path, "TwoSFS", whole, 4, extra=extra) == 0
    states = {epoch: checkpoint(whole, epoch) for epoch in range(1, 5)}
    norm = next(name for name in states[1]["state_dict"] if "ln_" in name)
    parts = [(s["state_dict"][norm], s["state_dict"]["classifier"]) for s in states.values()]
    frozen = 1 if share == "0.25" else 2  # the epoch after which only the classifier learns
    assert all(torch.equal(norms, parts[3][0]) for norms, _ in parts[frozen - 1 :])
    assert not torch.equal(parts[2][1], parts[3][1])
    if share == "0.25":
        assert not parts[0][1].any()  # it starts with its stage
    for epoch in (1, 2):  # before and after a stage begins
        again = tmp_path / f"from{epoch}"
        shutil.copytree(whole, again)
        for later in range(epoch + 1, 5):
            (again / "two_sfs" / f"model.pth.tar-{later}").unlink()
        (again / "two_sfs" / "checkpoint").write_text(f"model.pth.tar-{epoch}\n")
        (again / "results.json").unlink()
        assert run(tmp_path, "TwoSFS", again, 4, "--resume", str(again), extra=extra) == 0
        found, wanted = checkpoint(again, 4), states[4]
        for name, value in wanted["state_dict"].items():
            assert torch.equal(found["state_dict"][name], value), name
        assert found["method"]["stage"] == wanted["method"]["stage"] == 2


def test_a_stage_begins_in_half_precision(tmp_path):
    """The classifier starts from text features."""
    extra = [SHARE, "0.5", "TRAINER.TWO_SFS.PREC", "amp"]
    assert run(tmp_path, "TwoSFS", None, 2, extra=extra) == 0


def test_a_stage_without_a_step(tmp_path, capsys):
    assert run(tmp_path, "TwoSFS", None, 1, extra=[SHARE, "0.1"]) == 2
    assert "trains in 2 stages, but one of them has none of the 4 steps" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0.0", "1.0", "-1.0", "nan"])
def test_a_share_outside_0_and_1(tmp_path, capsys, share):
    assert run(tmp_path, "TwoSFS", None, 1, extra=[SHARE, share]) == 2
    assert "N_ITERS_FRAC is" in capsys.readouterr().err
