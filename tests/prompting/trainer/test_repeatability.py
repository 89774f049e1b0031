"""Checks of a plug-in's run: after the first step, and when it is built again from a checkpoint."""

import pytest
import torch
import torch.nn.functional as F
from tiny import run
from torch import nn

from trainers.prompting import OnSupport, Stage, Staged, register
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.trainer import in_use, repeatability
from trainers.prompting.trainer.evaluation import is_foreign


class InATensor(OnSupport, CoOp):
    """Means of features in a plain tensor, which no checkpoint holds."""

    support_passes, class_bound = 1, True

    def take_support(self, features, labels):
        one_hot = F.one_hot(labels, self.num_classes).float()
        self.means = F.normalize(one_hot.T @ F.normalize(features[0], dim=-1), dim=-1)

    def logits(self, image, text):
        found = super().logits(image, text)
        return found + image.z[:, 0] @ self.means.T if hasattr(self, "means") else found


class ByAStage(Staged, CoOp):
    """A stage number in an attribute, which `begin_stage` sets."""

    stage = 0

    def stages(self):
        return [Stage(share=0.5), Stage(share=0.5)]

    def begin_stage(self, stage):
        self.stage = stage

    def logits(self, image, text):
        return super().logits(image, text) * (1 + self.stage)


class AtTheEnd(Staged, CoOp):
    """A factor that is chosen after the last epoch."""

    factor = 1.0

    def after_epoch(self, epoch, last):
        self.factor = 2.0 if epoch == last else 1.0

    def logits(self, image, text):
        return self.factor * super().logits(image, text)


class MadeLate(CoOp):
    """A buffer that is made in a step."""

    def loss(self, output, batch):
        self.register_buffer("seen", torch.ones(2))
        return super().loss(output, batch)


class NotANumber(CoOp):
    """A mean over the images of the third class, which a batch may not have."""

    def loss(self, output, batch):
        return super().loss(output, batch) + output.logits[batch.labels == 2].mean()


WHOLE = ["DATALOADER.TRAIN_X.BATCH_SIZE", "16"]  # all images in one batch, four of each class
BUILT = "built again from its checkpoint, is off by"
SAID = {
    InATensor: f"The logits of InATensor, {BUILT}",
    ByAStage: f"The logits of ByAStage, {BUILT}",
    AtTheEnd: f"The logits of AtTheEnd, {BUILT}",
    MadeLate: "MadeLate cannot be built again from its own checkpoint",
    NotANumber: "The loss of NotANumber is nan for random images, two of each of two classes",
}


class Supervised(CoOp):
    """A supervised contrastive term: means over the other images of a class in the batch."""

    def loss(self, output, batch):
        z, own = output.image.z[:, 0], batch.labels[:, None] == batch.labels
        alike = (z @ z.T).masked_fill(~own | torch.eye(len(z), dtype=torch.bool), torch.nan)
        return super().loss(output, batch) - alike.nanmean(1).mean()


class Tied(CoOp):
    """A parameter under two names, of which checkpoints have both."""

    def build(self, *given):
        super().build(*given)
        self.first = nn.Linear(1, 1, bias=False)
        self.second = nn.Linear(1, 1, bias=False)
        self.second.weight = self.first.weight

    def logits(self, image, text):
        return super().logits(image, text) * self.first.weight * self.second.weight


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_a_run_ends_with_a_sentence(tmp_path, capsys, kind):
    register(kind)
    epochs = 2 if kind in (ByAStage, AtTheEnd) else 1
    assert run(tmp_path, kind.__name__, None, epochs, extra=WHOLE) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and SAID[kind] in line


@pytest.mark.parametrize("kind", [Supervised, Tied])
def test_a_sound_run_is_not_refused(tmp_path, capsys, kind):
    register(kind)
    assert run(tmp_path, kind.__name__, None, 1, extra=WHOLE) == 0
    if kind is Tied:
        assert "Trained parameters: 2,049\n" in capsys.readouterr().out
        state = torch.load(next(tmp_path.glob("output/*/model.pth.tar-1")))["state_dict"]
        assert state["first.weight"] == state["second.weight"] != 1


def test_what_the_checks_leave_behind(tmp_path, monkeypatch):
    """A run with the checks is that without them, bit for bit."""
    register(type("AsCoOp", (CoOp,), {"views": 1}))
    states, checked = [], []
    monkeypatch.setattr(
        in_use, "check_rebuilt", lambda *own: checked.append(repeatability.check_rebuilt(*own))
    )
    for foreign in (True, False):
        monkeypatch.setattr(in_use, "is_foreign", lambda kind, foreign=foreign: foreign)
        output = tmp_path / str(foreign)
        assert run(tmp_path, "AsCoOp", output, 3) == 0
        states.append(torch.load(next(output.glob("*/model.pth.tar-3")), weights_only=False))
    assert len(checked) == 2, "after the first epoch and the last"
    assert states[0]["rng"]
    assert is_foreign(METHODS["AsCoOp"]) and not is_foreign(CoOp)
    (ctx, rng), others = ((*state["state_dict"].values(), state["rng"]) for state in states)
    assert torch.equal(ctx, others[0]) and str(rng) == str(others[1])


# ------------------------------------------------------------------ after the first step


def test_what_the_loss_does_not_depend_on_is_named(tmp_path, capsys):
    @register
    class IdleHead(CoOp):
        def build(self, *given):
            super().build(*given)
            self.head = nn.Linear(2, 2)
            self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)

    assert run(tmp_path, "IdleHead", None, 1) == 0
    said = "No gradient reaches head.weight, head.bias: what is minimised does not depend on them"
    assert capsys.readouterr().out.count(said) == 1


def test_logits_of_another_shape(tmp_path, capsys):
    @register
    class OneMore(CoOp):
        def logits(self, image, text):
            return nn.functional.pad(super().logits(image, text), (0, 1))

    assert run(tmp_path, "OneMore") == 2
    assert "The logits of OneMore have the shape (4, 5) but must have (4, 4)" in (
        capsys.readouterr().err
    )
