"""Methods that plan the steps of each epoch."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny import learned, results, run

from trainers.prompting import Planned, UserError, register
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.trainer.planned_steps import check_plan, count_steps

STEPS, READ = [], []  # rows and labels of each step; what is read before each epoch


class Ordered(Planned, CoOp):
    """Plans two steps, then leaves an epoch to the loader, then plans three."""

    reads = True

    def plan_epoch(self, epoch, last, batches):
        assert not self.training and not torch.is_grad_enabled() and last == 3
        if self.reads:
            seen = [*batches]
            assert [len(batch.labels) for batch in seen] == [4] * 4
            READ.append(torch.cat([batch.images for batch in seen]))
            assert torch.cat([batch.index for batch in seen]).tolist() == [*range(16)]
        return {1: [[5, 3], torch.arange(7)], 2: None, 3: [[0], [9, 9], [15]]}[epoch]

    def loss(self, output, batch):
        STEPS.append((batch.index.tolist(), batch.labels.tolist()))
        return super().loss(output, batch)


@pytest.fixture(autouse=True)
def registered():
    STEPS.clear(), READ.clear()
    register(Ordered)


def without_checks(patch):
    """Leave out what is checked of plug-ins, which computes more steps."""
    patch.setattr("trainers.prompting.trainer.in_use.is_foreign", lambda kind: False)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a whole run, its steps, and what it has read."""
    root = tmp_path_factory.mktemp("straight")
    STEPS.clear(), READ.clear()
    with pytest.MonkeyPatch.context() as patch:
        without_checks(patch)
        patch.setitem(METHODS, "Ordered", Ordered)
        assert run(root, "Ordered", root / "out", 3) == 0
    return root / "out", [*STEPS], [*READ]


def test_steps_are_as_planned(straight, tmp_path, monkeypatch):
    out, steps, read = straight
    rows = [step for step, _ in steps]
    assert rows[:2] + rows[-3:] == [[5, 3], [*range(7)], [0], [9, 9], [15]]
    assert len(rows) == 9 and sorted(sum(rows[2:6], [])) == [*range(16)]
    label = {row: label for step in steps for row, label in zip(*step, strict=True)}
    assert [label[row] for row in range(16)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    said = (out / "log.txt").read_text()
    assert all(f"epoch [{e}/3] batch [{n}/{n}]" in said for e, n in ((1, 2), (2, 4), (3, 3)))
    assert results(out)["train_steps"] == 9
    assert not torch.equal(read[0], read[1]) and read[0].shape == (16, 3, 32, 32)

    without_checks(monkeypatch)
    monkeypatch.setattr(Ordered, "reads", False)  # takes nothing from the run's random numbers
    assert run(tmp_path, "Ordered", tmp_path / "unread", 3) == 0 and not READ
    assert torch.equal(learned(tmp_path / "unread", 3)["ctx"], learned(out, 3)["ctx"])
    monkeypatch.setattr(Ordered, "reads", True)
    assert run(tmp_path, "Ordered", tmp_path / "slow", 3, extra=["OPTIM.LR", "1e-4"]) == 0
    assert torch.equal(READ[0], read[0])  # augmentations depend on the seed and the epoch


def test_epochs_to_come_count_as_the_last_one_that_is_known():
    known = SimpleNamespace(epoch_lengths=[4, 2], epoch=1, max_epoch=4)
    assert count_steps(known) == (4, 10)


class Interrupted(Exception):
    pass


def test_a_resumed_run_is_the_same_bit_for_bit(straight, tmp_path, monkeypatch):
    (out, steps, read), folder, before = straight, tmp_path / "interrupted", Ordered.loss

    def stopped(self, output, batch):
        if len(STEPS) == 7:  # in the third epoch
            raise Interrupted
        return before(self, output, batch)

    without_checks(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Ordered, "loss", stopped)
        run(tmp_path, "Ordered", folder, 3)
    READ.clear(), STEPS.clear()
    assert run(tmp_path, "Ordered", folder, 3) == 0
    assert steps[6:] == STEPS and torch.equal(*READ, read[2])
    assert torch.equal(learned(folder, 3)["ctx"], learned(out, 3)["ctx"])
    (folder / "results.json").unlink()  # killed after the last checkpoint
    assert run(tmp_path, "Ordered", folder, 3) == 0
    assert results(folder)["train_steps"] == results(out)["train_steps"] == 9


def test_a_checkpoint_without_the_numbers_of_steps(straight, tmp_path, capsys, monkeypatch):
    without_checks(monkeypatch)
    shutil.copytree(straight[0], tmp_path / "out")
    path = tmp_path / "out" / "prompt_learner" / "model.pth.tar-3"
    state = torch.load(path, weights_only=True)
    del state["planned"]
    for planned in ({}, {"planned": [2]}, {"planned": [2, 0, 3]}, {"planned": 7}):
        torch.save(state | planned, path)
        assert run(straight[0].parent, "Ordered", tmp_path / "out", 3) == 2
        said = capsys.readouterr().err
        assert f"The checkpoint '{path}' " in said and "to train from the start" in said


# ------------------------------------------------------------------ mistakes

PLANS = [[], [[1], []], [[0.5]], [torch.ones(3, dtype=bool)], [[0, 3]], [[-1]]]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_plans_that_are_wrong(plan):
    with pytest.raises(UserError, match="`plan_epoch` of Mine must return .* from 0 to 2"):
        check_plan(plan, 3, "Mine")


@pytest.mark.parametrize("key", ["OPTIM.STEPS 5", "OPTIM.LR_BY_STEP True"])
def test_nothing_is_counted_in_steps(tmp_path, capsys, key):
    assert run(tmp_path, "NLPrompt", tmp_path / "out", extra=key.split()) == 2
    assert capsys.readouterr().err.endswith(
        "error: NLPrompt plans the steps of each epoch when it begins, so nothing can be counted "
        "in steps: set OPTIM.MAX_EPOCH, and leave out OPTIM.STEPS and OPTIM.LR_BY_STEP\n"
    )
