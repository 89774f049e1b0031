"""Learning rate schedules and optimisers."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint
from torch import nn

PROTOCOL = json.loads((Path(__file__).parents[1] / "golden" / "protocol.json").read_text())


def optim_cfg(**options):
    cfg = get_cfg_default().OPTIM
    cfg.merge_from_list([x for pair in options.items() for x in pair])
    return cfg


def rates(cfg):
    optimizer = build_optimizer([nn.Parameter(torch.zeros(1))], cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    found = []
    for _ in range(cfg.MAX_EPOCH):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("case", PROTOCOL["lr"], ids=lambda case: str(case["optim"]["LR"]))
def test_learning_rate_of_each_epoch(case):
    cfg = optim_cfg(NAME="sgd", LR_SCHEDULER="cosine", **case["optim"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates(cfg) == case["lr_by_epoch"]


def test_other_schedules():
    single = optim_cfg(LR=1.0, LR_SCHEDULER="single_step", STEPSIZE=(2,), MAX_EPOCH=5)
    assert rates(single) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    never = optim_cfg(LR=1.0, LR_SCHEDULER="single_step", MAX_EPOCH=3)
    assert rates(never) == [1, 1, 1]
    multi = optim_cfg(LR=1.0, LR_SCHEDULER="multi_step", STEPSIZE=(1, 3), MAX_EPOCH=4)
    assert rates(multi) == pytest.approx([1, 0.1, 0.1, 0.01])
    counted_on = optim_cfg(
        LR=1.0, LR_SCHEDULER="multi_step", STEPSIZE=(3, 9), MAX_EPOCH=5, WARMUP_EPOCH=2
    )
    assert rates(counted_on) == pytest.approx([1e-5, 0.5, 1, 1, 1])
    counted_on.WARMUP_RECOUNT = False  # the two epochs of warm-up count towards the step at 3
    assert rates(counted_on) == pytest.approx([1e-5, 0.5, 1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "radam", "rmsprop", "sgd"])
def test_optimizers_take_their_settings(name):
    optimizer = build_optimizer(nn.Linear(2, 1), optim_cfg(NAME=name, LR=0.5, WEIGHT_DECAY=0.1))
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.1
    if "betas" in group:
        assert group["betas"] == (0.9, 0.999)
    assert group.get("amsgrad", False) == (name == "amsgrad")


def test_staged_rates_and_groups():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    staged = optim_cfg(LR=1.0, STAGED_LR=True, NEW_LAYERS=["1"], BASE_LR_MULT=0.1)
    base, new = build_optimizer(model, staged).param_groups
    assert (base["lr"], new["lr"]) == (0.1, 1.0)
    assert new["params"] == list(model[1].parameters())
    (only,) = build_optimizer(model, optim_cfg(), [{"params": model[0].weight}]).param_groups
    assert only["params"] == [model[0].weight]


def test_state_of_the_original_is_read(tmp_path):
    """The original's warm-up stores its successor as an object in the checkpoint."""
    cfg = optim_cfg(
        NAME="sgd", LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="constant", LR=0.1
    )
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    state = {**scheduler.state_dict(), "successor": scheduler.successor}
    torch.save({"scheduler": state, "optimizer": optimizer.state_dict()}, tmp_path / "public.tar")

    checkpoint = load_checkpoint(str(tmp_path / "public.tar"))
    other = build_optimizer(model, cfg)
    resumed = build_lr_scheduler(other, cfg)
    other.load_state_dict(checkpoint["optimizer"])
    resumed.load_state_dict(checkpoint["scheduler"])
    for s, o in ((scheduler, optimizer), (resumed, other)):
        o.step()
        s.step()
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert resumed.state_dict() == scheduler.state_dict()
