"""Each check of the room finds the mistake that it is for, and nothing in a method without any.

It is long because it is one table.
"""

import os
import random
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from dassl.config import get_cfg_default
from torch import nn

from trainers.prompting import (
    AtTestTime,
    Contexts,
    OnSupport,
    Stage,
    Staged,
    Teacher,
    UserError,
    register,
)
from trainers.prompting.building.config import add_nodes
from trainers.prompting.conformance.checks import CHECKS, lines
from trainers.prompting.conformance.findings import Skipped
from trainers.prompting.conformance.short import ShortRun, shorten
from trainers.prompting.methods.coop import CoOp


def run_of(kind, folder, train=False):
    """Return the short training of a method; without `train`, it is as after one of no step."""
    register(kind)
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.TRAINER.NAME, cfg.OPTIM.LR, cfg.OPTIM.NAME = kind.__name__, 0.1, "sgd"
    cfg.INPUT.TRANSFORMS = ["normalize"]
    run = ShortRun(shorten(cfg, str(folder), {"N_CTX": 4}))
    if train is False:
        run.losses = [torch.tensor(1.0)]
        run.read_tests()
        run.trainer.train_loader_x = run.trainer.dm.train_loader_x
    return run


def after(make):
    """Return a `build` that does something after that of CoOp."""

    def build(self, *given):
        CoOp.build(self, *given)
        make(self, *given)

    return {"build": build}


def scored(change):
    """Return `logits` that change those of CoOp."""
    return {"logits": lambda self, image, text: change(self, CoOp.logits(self, image, text), image)}


def lost(change):
    """Return a `loss` that changes that of CoOp."""
    return {"loss": lambda self, output, batch: change(self, output, batch)}


def ce(logits, batch, **how):
    return F.cross_entropy(logits, batch.labels, **how)


@dataclass(frozen=True)
class WithAKey(CoOp.Settings):
    UNREAD_WEIGHT: float = 2.0


def clipped(self, terms, scale=lambda loss: loss):
    scale(terms["loss"]).backward()
    nn.utils.clip_grad_norm_(self.parameters(), 1000.0)


def noisy(self):
    return Contexts([c + 0.1 * torch.randn_like(c) for c in CoOp.contexts(self).text])


class Prior(AtTestTime, CoOp):
    """A stream that keeps the sum of its probabilities."""

    stream = True

    def build(self, *given):
        super().build(*given)
        self.register_buffer("seen", torch.ones(self.num_classes), persistent=False)

    def predict(self, images):
        output = self.output(images)
        self.seen += output.logits.softmax(1).sum(0)
        return output._replace(logits=output.logits - self.seen.log())


class Supported(OnSupport, CoOp):
    """Adds cosines with means of the support, which `move` makes."""

    class_bound, support_passes = True, 1

    def build(self, *given):
        super().build(*given)
        self.register_buffer("means", torch.zeros(self.num_classes, self.width))

    def take_support(self, features, labels):
        for z, y in zip(F.normalize(features[0], dim=-1), labels, strict=True):
            self.means[y] = (self.means[y] + z) / 2

    def logits(self, image, text):
        return super().logits(image, text) + image.z[:, 0] @ self.means.T


def of_a_teacher(self, logits, image):
    """Logits of the untouched text in evaluations."""
    return logits if self.training else self.logit_scale * image.z[:, 0] @ self.teacher.h.T


def a_teacher(self, clip_model, classnames, dataset):
    self.teacher = Teacher(clip_model, classnames, ["a {}."])


def sorted_teacher(self, clip_model, classnames, dataset):
    self.teacher = Teacher(clip_model, sorted(classnames), ["a {}."])


def a_bias(self, clip_model, classnames, dataset):
    self.bias = nn.Parameter(torch.zeros(self.num_classes))


def factors(self, clip_model, classnames, dataset):
    self.a = nn.Parameter(torch.zeros(self.width, 2))
    self.b = nn.Parameter(torch.zeros(2, self.width))


def updated(self, logits, image):
    return logits + image.z[:, 0] @ (self.a @ self.b).mean(1)[:, None]


def a_weight(self, clip_model, classnames, dataset):
    self.weight = nn.Parameter(torch.ones(()))


def in_other_rows(order):
    """Return `image_features` whose rows are in another order in steps."""

    def image_features(self, images, contexts):
        image = CoOp.image_features(self, images, contexts)
        return image._replace(z=image.z[order(len(image.z))]) if self.training else image

    return {"image_features": image_features}


def kept_text(self, contexts):
    """Text features of the first evaluation."""
    text = CoOp.text_features(self, contexts)
    return text if self.training else self.__dict__.setdefault("first", text)


def by_number(self, clip_model, classnames, dataset):
    self.register_buffer("bias", torch.arange(float(len(classnames))), persistent=False)


def names_in_a_buffer(self, clip_model, classnames, dataset):
    self.register_buffer("lengths", torch.tensor([float(len(name)) for name in classnames]))


def frozen_at_the_end(self, epoch, last):
    self.prompt_learner.ctx.requires_grad_(epoch < last)


def detached(self, output, batch):
    return {"ce": ce(output.logits, batch), "apart": output.text.h.detach().sum()}


def counting(self, images):
    self.count = getattr(self, "count", 0) + 1
    output = CoOp.output(self, images)
    return output._replace(logits=output.logits * (1 + self.count))


def small_term(self, output, batch):
    self.count = getattr(self, "count", 0) + 1
    loss = ce(output.logits, batch)
    return {"ce": loss, "small": 1e-4 * min(self.count, 5) * loss}


def seeds(what):
    return C.check_seeds, what, "are the same for all seeds"


C = SimpleNamespace(**{check.__name__: check for check in CHECKS})
TWO_STAGES = {"stages": lambda self: [Stage(share=0.5)] * 2}
FOUND = {  # the check, the mistake, what is said
    "a misspelled hook": (C.check_hooks, {"image_feature": lambda self: 0}, "`image_features` if"),
    "a misspelled attribute": (C.check_hooks, {"class_bounded": True}, "write `class_bound` if"),
    "a hook of Dassl": (C.check_hooks, {"after_iter": lambda self: 0}, "write `after_step`"),
    "a key that is not read": (C.check_fields, {"Settings": WithAKey}, "its key UNREAD_WEIGHT"),
    "a frozen parameter": (
        C.check_frozen,
        after(lambda self, *_: setattr(self, "scale", nn.Parameter(torch.ones(2), False))),
        "frozen 'scale'",
    ),
    "weights": (
        C.check_clip, after(lambda m, clip, *_: clip.visual.proj.data.mul_(0.9)), "'visual.proj'",
    ),
    "a learned scale": (
        C.check_clip,
        after(lambda m, *_: setattr(m, "logit_scale", nn.Parameter(m.logit_scale.clone()))),
        "has replaced `logit_scale`, of which checkpoints hold nothing",
    ),
    "a scale": (
        C.check_clip, after(lambda m, *_: setattr(m, "logit_scale", torch.tensor(5.0))),
        "has replaced `logit_scale`",
    ),
    "a mean": (
        C.check_clip, after(lambda m, *_: setattr(m, "mean", (0.5,) * 3)), "replaced `mean` or",
    ),
    "PyTorch's seed": seeds(after(lambda *_: torch.manual_seed(0))),
    "NumPy's seed": seeds(after(lambda *_: np.random.seed(0))),
    "Python's seed": seeds(after(lambda *_: random.seed(0))),
    "a seed of a stage": seeds({"begin_stage": lambda self, stage: torch.manual_seed(stage)}),
    "the clock": (
        C.check_built_twice,
        after(lambda self, *_: self.register_buffer("t", torch.tensor(time.perf_counter_ns()))),
        "'t' has other values when it is built again",
    ),
    "a term apart": (
        C.check_terms,
        lost(lambda self, o, b: {"loss": ce(o.logits, b), "far": o.text.h.var(1).sum()}),
        "The term 'far' has a gradient, but `loss` is not",
    ),
    "no scale of losses": (
        C.check_scale,
        {"backward": lambda self, terms, scale=None: terms["loss"].backward()},
        "does not multiply gradients by its scale",
    ),
    "clipped gradients": (C.check_scale, {"backward": clipped}, "clip them by OPTIM.CLIP_NORM"),
    "shifted labels": (
        C.check_labels,
        lost(lambda self, o, b: F.cross_entropy(o.logits, (b.labels + 1) % self.num_classes)),
        "The loss rises with the logits of the labels",
    ),
    "a softmax before the loss": (
        C.check_labels, lost(lambda self, o, b: ce(o.logits.softmax(1), b)), "takes logits, not",
    ),
    "the scale once more": (
        C.check_labels, lost(lambda self, o, b: ce(self.logit_scale * o.logits, b)), "once more",
    ),
    "rows that are turned": (
        C.check_rows, in_other_rows(lambda n: torch.arange(n).flip(0)), "logits of other ones",
    ),
    "rows that are shifted": (
        C.check_rows, in_other_rows(lambda n: torch.arange(n).roll(1)), "logits of other ones",
    ),
    "rows by chance": (C.check_rows, in_other_rows(torch.randperm), "logits of other ones"),
    "a weight of training": (
        C.check_evaluated,
        after(a_weight) | scored(lambda m, x, _: m.weight * x if m.training else x),
        "do not depend on 'weight', which",
    ),
    "half logits": (C.check_scores, scored(lambda m, x, _: x.half()), "must be torch.float32"),
    "probabilities": (C.check_scores, scored(lambda m, x, _: x.softmax(1)), "which sum to one"),
    "their logarithms": (C.check_scores, scored(lambda m, x, _: x.log_softmax(1)), "logarithms of"),
    "random contexts": (C.check_repeats, {"contexts": noisy}, "otherwise on a second call"),
    "a stream that is none": (
        C.check_repeats, type("Mistaken", (Prior,), {"stream": False}), "on a second call",
    ),
    "a stream without reset": (C.check_repeats, Prior, "set all of it back in `reset`"),
    "a stream by batches": (
        C.check_batches,
        type("Mistaken", (Prior,), {"reset": lambda self: self.seen.fill_(1)}),
        "how many images come at a time",
    ),
    "means over the batch": (
        C.check_batches, scored(lambda m, x, _: x - x.mean(0)), "for an image alone than in a",
    ),
    "a buffer of class names": (C.check_others, after(names_in_a_buffer), "'lengths'"),
    "a parameter for each class": (
        C.check_others, after(a_bias) | scored(lambda m, x, _: x + m.bias), "`class_bound = True`",
    ),
    "a teacher of sorted names": (C.check_order, after(sorted_teacher), "classes of 'teacher' are"),
    "a bias by number": (
        C.check_order, after(by_number) | scored(lambda m, x, _: x + m.bias), "in another order",
    ),
    "a norm over the classes": (
        C.check_union, scored(lambda m, x, _: 10 * F.normalize(x, dim=1)), "`joint = False`",
    ),
    "a running mean": (C.check_support, Supported, "same training images in another order"),
    "no scale": (C.check_temperature, scored(lambda m, x, _: x / m.logit_scale), "not between 0.2"),
    "two scales": (
        C.check_temperature, scored(lambda m, x, _: x * m.logit_scale**2), "standard deviation of",
    ),
}  # fmt: skip
OF_TRAININGS = {  # the end of what a short training, or a check after it, says
    "a parameter of each step": (
        {"logits": lambda self, image, text: made_anew(self, image, text)}, "has made, replaced or",
    ),
    "a parameter that nothing reads": (
        after(lambda self, *_: setattr(self, "idle", nn.Parameter(torch.ones(2)))),
        "No gradient reaches idle",
    ),
    "a term without a gradient": (lost(detached), "No gradient comes from apart of the loss"),
    "a parameter that is frozen at the end": (
        {"after_epoch": frozen_at_the_end}, "no longer requires a gradient",
    ),
    "a stage in an attribute": (
        {**TWO_STAGES, "begin_stage": lambda self, i: setattr(self, "stage", i), "stage": 0}
        | scored(lambda m, x, _: x * (1 + m.stage)),
        "The logits of Mistaken, built again from its checkpoint",
    ),
    "a counter that scales logits": ({"output": counting}, "built again from its checkpoint"),
    "a counter in a small term": (lost(small_term), "The term 'small' of Mistaken, built again"),
    "factors of zeros": (after(factors) | scored(updated), "'a' is after the training what"),
    "text of a teacher": (after(a_teacher) | scored(of_a_teacher), "same before and after the"),
}  # fmt: skip


def made_anew(self, image, text):
    self.scale = nn.Parameter(torch.ones(()))
    return self.scale * CoOp.logits(self, image, text)


def mistaken(body):
    return body if isinstance(body, type) else type("Mistaken", (Staged, CoOp), body)


QUICK_TRAININGS = ("a stage in an attribute", "a counter in a small term", "text of a teacher")


@pytest.mark.parametrize("case", FOUND)
def test_a_mistake_is_found(tmp_path, case):
    check, body, said = FOUND[case]
    run = run_of(mistaken(body), tmp_path)
    with pytest.raises((UserError, Skipped)) as found:
        check(run)
    assert said in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("case", slow_but(OF_TRAININGS, *QUICK_TRAININGS))
def test_a_training_with_a_mistake(tmp_path, case):
    body, said = OF_TRAININGS[case]
    run = run_of(mistaken(body), tmp_path, train=None)
    wrong = [why for state, _, why in lines(lambda: run, OF_TRAINING) if state == "wrong"]
    assert any(said in why for why in wrong), wrong


OF_TRAINING = (C.check_gradients, C.check_used, C.check_again, C.check_unchanged)


def test_every_check_has_its_mistake():
    with_one = {check for check, *_ in FOUND.values()} | {*OF_TRAINING}
    assert {*CHECKS} - with_one == {C.check_kept}  # in test_check_method.py
    assert all("Finds " in check.__doc__ for check in CHECKS)


def test_a_method_without_mistakes(tmp_path):
    found = [*lines(lambda: run_of(type("Sound", (CoOp,), {}), tmp_path, train=None))]
    assert {state for state, *_ in found} == {"ok", "-"} and len(found) == 1 + len(CHECKS)


CAUSES = {
    "a counter": ({"output": counting}, ["otherwise on a second call"]),
    "kept text": (
        {"text_features": kept_text}, ["same before and after the", "built again from its"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_comes_first(tmp_path, case):
    """And alone, where an evaluation does not repeat, as others would follow from it."""
    body, said = CAUSES[case]
    checks = [
        x for x in CHECKS if x in (C.check_repeats, C.check_used, C.check_again, C.check_kept)
    ]
    run = run_of(mistaken(body), tmp_path, train=None)
    wrong = [why for state, _, why in lines(lambda: run, checks) if state == "wrong"]
    assert len(wrong) == len(said) and all(map(str.__contains__, wrong, said)), wrong


FINE = {
    "a hinge": lambda self, o, b: F.multi_margin_loss(o.logits, b.labels, margin=0.1),
    "a sum": lambda self, o, b: ce(o.logits, b, reduction="sum"),
    "smooth labels": lambda self, o, b: ce(o.logits, b, label_smoothing=0.2),
    "a large weight": lambda self, o, b: {"ce": ce(o.logits, b), "s": 200 * o.text.h.std()},
}


@pytest.mark.parametrize("case", FINE)
def test_a_loss_that_is_no_mistake(tmp_path, case):
    """The gradient of a hinge is 0 for most images, that of a sum as many times as large."""
    C.check_labels(run_of(mistaken(lost(FINE[case])), tmp_path))


def test_dropout_is_no_mistake(tmp_path):
    dropped = {
        "image_features": lambda self, *of: (image := CoOp.image_features(self, *of))._replace(
            z=F.dropout(image.z, 0.3, self.training)
        )
    }
    C.check_rows(run_of(mistaken(dropped), tmp_path))


def test_the_time_is_up(tmp_path):
    found = [*lines(lambda: run_of(CoOp, tmp_path, train=None), seconds=0)]
    assert {why for _, _, why in found} == {"the time was up"} and len(found) == 1 + len(CHECKS)


def test_a_changed_clip_ends_the_checks(tmp_path):
    """As what follows would blame something else."""
    _, body, _ = FOUND["a mean"]
    found = lines(lambda: run_of(mistaken(body), tmp_path, train=None))
    assert [state for state, *_ in found] == ["ok", "wrong"]


def test_test_images_are_not_there_before(tmp_path):
    run = run_of(CoOp, tmp_path, train=None)
    item = run.trainer.dm.dataset.test[0]
    assert not os.path.exists(item.impath)
    run.train()
    assert os.path.exists(item.impath)
