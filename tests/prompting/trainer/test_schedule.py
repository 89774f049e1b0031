"""The length of a training, its stages and learning rates, counted in epochs or in steps."""

import math
import shutil

import pytest
import torch
from cases import slow_but
from dassl.config import get_cfg_default
from tiny import killed_after, learned, results, run
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from trainers.prompting import extend_cfg
from trainers.prompting.trainer.schedule import build_optim
from trainers.prompting.trainer.trainer import PromptTrainer

# 16 images, 4 in a batch: two epochs of 4 steps, and one of 2
TEN = ["OPTIM.STEPS", "10", "OPTIM.LR_MIN", "0.001"]


@pytest.fixture
def seen(monkeypatch):
    """For each step, its learning rate and number of images."""
    found = []
    forward_backward = PromptTrainer.forward_backward

    def noted(self, batch):
        found.append((self.get_current_lr(), len(batch["label"])))
        return forward_backward(self, batch)

    monkeypatch.setattr(PromptTrainer, "forward_backward", noted)
    return found


def test_a_number_of_steps_and_a_resumed_run(tmp_path, seen, monkeypatch):
    whole, parts, drawn = tmp_path / "whole", tmp_path / "parts", []
    monkeypatch.setattr(
        PromptTrainer, "write_scalar", lambda self, tag, value, step: drawn.append((tag, step))
    )
    assert run(tmp_path, "CoOp", whole, extra=[*TEN, "TRAIN.PRINT_FREQ", "1"]) == 0
    rates = [rate for rate, _ in seen]
    cosine = [0.001 + 0.009 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert rates == pytest.approx(cosine)
    assert results(whole)["train_steps"] == 10
    assert [step for tag, step in drawn if tag == "train/lr"] == list(range(10))
    said = (whole / "log.txt").read_text()
    assert "epoch [3/3] batch [2/2]" in said and "eta 0:00:00 lr 1.0000e-03" in said
    assert "10 steps: 3 epochs of 4, the last of 2" in said

    with killed_after(epoch=2):
        assert run(tmp_path, "CoOp", parts, extra=TEN) == 130
    assert run(tmp_path, "CoOp", parts, extra=TEN) == 0
    assert [rate for rate, _ in seen[10:]] == rates
    assert torch.equal(learned(parts, 3)["ctx"], learned(whole, 3)["ctx"])


def test_rates_by_step_with_a_warm_up_and_a_short_last_batch(tmp_path, seen):
    pairs = {
        "OPTIM.LR_BY_STEP": "True",
        "OPTIM.WARMUP_EPOCH": "1",
        "OPTIM.WARMUP_TYPE": "constant",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "6",
        "DATALOADER.TRAIN_X.DROP_LAST": "False",
    }
    extra = [word for pair in pairs.items() for word in pair]
    assert run(tmp_path, "CoOp", None, 3, extra=extra) == 0
    assert [images for _, images in seen] == [6, 6, 4] * 3
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.01)
    scheduler, after = CosineAnnealingLR(optimizer, 9), []
    for _ in range(6):  # the schedule counts from the end of the warm-up
        after += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert [rate for rate, _ in seen] == pytest.approx([1e-5] * 3 + after)


def test_epochs_are_as_they_were(tmp_path, seen):
    assert run(tmp_path, "CoOp", None, 2, extra=["DATALOADER.TRAIN_X.BATCH_SIZE", "6"]) == 0
    assert seen == [(pytest.approx(rate), 6) for rate in (0.01, 0.01, 0.005, 0.005)]


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("OPTIM.STEPS -1", "OPTIM.STEPS is -1 but must be a whole number, 0 or more"),
        ("OPTIM.LR_MIN -0.1", "OPTIM.LR_MIN is -0.1 but must be from 0 to OPTIM.LR"),
        ("OPTIM.LR_MIN 0.02", "OPTIM.LR_MIN is 0.02 but must be from 0 to OPTIM.LR (0.01)"),
        ("OPTIM.LR_MIN 0.001 OPTIM.LR_SCHEDULER multi_step", "needs OPTIM.LR_SCHEDULER cosine"),
        (
            "OPTIM.STEPS 4 OPTIM.COSINE_STEPS -1",
            "COSINE_STEPS is -1 but must be a whole number, 0 or more",
        ),
        ("OPTIM.COSINE_STEPS 5", "COSINE_STEPS is 5, which needs OPTIM.LR_SCHEDULER cosine, and"),
        ("OPTIM.ADAM_EPS 1.0", "OPTIM.ADAM_EPS is 1.0 but must be at least 0 and less"),
    ],
)
def test_invalid_values_are_one_sentence(tmp_path, capsys, extra, why):
    assert run(tmp_path, "CoOp", extra=extra.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and why in line
    assert not (tmp_path / "output").exists()


# ------------------------------------------------------------------ stages


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


def test_adamw_trains_some_groups_by_sgd():
    """As two optimisers that are next to each other, with either's decay; it resumes."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg = cfg.OPTIM
    cfg.NAME, cfg.LR, cfg.WEIGHT_DECAY = "adamw", 0.01, 0.1
    start = torch.linspace(-1, 1, 4)
    both, apart = ([nn.Parameter(start.clone()) for _ in range(2)] for _ in range(2))
    parts = {"head": both[0], "tokens.a": both[1]}

    def build():
        return build_optim(parts, cfg, 1, {"tokens.": 20.0}, ("tokens.",))[0]

    optimizer = build()
    adamw = torch.optim.AdamW(apart[:1], lr=0.01, weight_decay=0.1)
    sgd = torch.optim.SGD(apart[1:], lr=0.2, momentum=cfg.MOMENTUM, weight_decay=0.1)
    for step in range(4):
        for p in (*both, *apart):
            p.grad = (step + 1) * torch.ones(4)
        for each in (optimizer, adamw, sgd):
            each.step()
        if step == 1:  # as a run that is resumed
            state = optimizer.state_dict()
            optimizer = build()
            optimizer.load_state_dict(state)
    assert all(map(torch.equal, both, apart))
