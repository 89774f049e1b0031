"""Checks of `check-method` of how a method is built and of its steps, each on a mistake."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import GOLDEN
from torch import nn

from trainers.prompting import UserError, load_clip
from trainers.prompting.conformance import checks, steps
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.running.precision import Precision
from trainers.prompting.trainer.config import read_node
from trainers.prompting.trainer.repeatability import check_scores

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
NAMES = ["forest", "sea", "road"]


def run_of(kind, losses=(1.0,)):
    """Return what the checks read of a short training: one batch to train, and one to validate."""
    clip_model = load_clip(TINY)
    with torch.random.fork_rng():
        method = kind(read_node(kind, {"N_CTX": 2}), clip_model, NAMES).eval()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = method.output(images)
    labels = (output.image.z[:, 0] @ output.text.h[0].T).argmax(1)
    labels[4:] = (labels[4:] + 1) % 3  # two mistakes of six
    trainer = SimpleNamespace(
        method=method,
        clip_model=clip_model,
        cfg=SimpleNamespace(
            MODEL=SimpleNamespace(BACKBONE=SimpleNamespace(NAME=TINY)),
            DATASET=SimpleNamespace(NAME=""),
        ),
        dm=SimpleNamespace(dataset=SimpleNamespace(classnames=NAMES)),
        precision=Precision("fp32", torch.device("cpu")),
        num_trained=1,
        train_loader_x=[(images, labels)],
        batch_of=lambda batch: method.batch(*batch),
        validation=[(images, labels)],
        parse_batch_test=lambda batch: batch,
    )
    return checks.Run(trainer, "", list(losses))


def built(make):
    def build(self, clip_model, *given):
        CoOp.build(self, clip_model, *given)
        make(self, clip_model)

    return {"build": build}


def scored(change):
    return {"logits": lambda self, image, text: change(self, CoOp.logits(self, image, text))}


def kept(self, output, batch):
    self.last = [*getattr(self, "last", []), batch.images]
    return CoOp.loss(self, output, batch)


def apart(self, output, batch):
    return {"loss": CoOp.loss(self, output, batch), "far": output.text.h.var(1).sum()}


def frozen(self, output, batch):
    self.prompt_learner.ctx.requires_grad_(False)
    return CoOp.loss(self, output, batch)


CLIP, SEEDS, STEPS = steps.check_clip, steps.check_seeds, steps.check_steps
DEVICES, TEMPERATURE = steps.check_devices, steps.check_temperature
MISTAKES = {
    "PyTorch's seed": (SEEDS, built(lambda *_: torch.manual_seed(0)), "of PyTorch are the same"),
    "NumPy's seed": (SEEDS, built(lambda *_: np.random.seed(0)), "of NumPy are the same for all"),
    "Python's seed": (SEEDS, built(lambda *_: random.seed(0)), "of Python are the same for all"),
    "weights": (
        CLIP, built(lambda m, clip: clip.visual.proj.data.mul_(0.9)), "changed 'visual.proj' of",
    ),
    "CLIP's scale": (CLIP, built(lambda m, clip: clip.logit_scale.data.zero_()), "'logit_scale'"),
    "a learned scale": (
        CLIP,
        built(lambda m, clip: setattr(m, "logit_scale", nn.Parameter(m.logit_scale.clone()))),
        "has replaced `logit_scale`, of which checkpoints hold nothing",
    ),
    "a scale": (
        CLIP, built(lambda m, clip: setattr(m, "logit_scale", torch.tensor(5.0))), "has replaced",
    ),
    "a mean": (CLIP, built(lambda m, clip: setattr(m, "mean", (0.5,) * 3)), "replaced `mean` or"),
    "a term": (STEPS, {"loss": apart}, "The term 'far' has a gradient, but `loss` is not"),
    "a scale of losses": (
        STEPS,
        {"backward": lambda self, terms, scale=None: terms["loss"].backward()},
        "`backward` does not multiply gradients by its scale",
    ),
    "images": (STEPS, {"loss": kept}, "The images of a step are kept after the next one"),
    "no scale": (TEMPERATURE, scored(lambda m, x: x / m.logit_scale), "is 0.05, not between"),
    "a large scale": (TEMPERATURE, scored(lambda m, x: x * m.logit_scale**2), "is 20, not"),
    "a value": (DEVICES, scored(lambda m, x: x / x.detach().max().item()), "reads the value of"),
    "a tensor of the CPU": (
        DEVICES, scored(lambda m, x: x * torch.arange(1.0, 4)), "on two devices: aten.mul",
    ),
    "a parameter that is frozen in a step": (
        checks.check_gradients, {"loss": frozen}, "'prompt_learner.ctx' no longer requires",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_found(case):
    check, body, said = MISTAKES[case]
    run = run_of(type("Mistaken", (CoOp,), body))
    if body.get("loss") is frozen:
        run.method.losses(*run.trainer.train_loader_x[0])
    with pytest.raises(UserError, match=said):
        check(run)


def test_a_method_without_mistakes():
    run = run_of(CoOp)
    for check in (CLIP, SEEDS, STEPS, TEMPERATURE, DEVICES, steps.check_first_loss):
        check(run)


def test_a_first_loss_that_is_too_large():
    with pytest.raises(UserError, match=r"The first loss is 100, above 22 \(20 ln K\)"):
        steps.check_first_loss(run_of(CoOp, [100.0]))


def test_logits_that_are_not_float32():
    with pytest.raises(UserError, match="are torch.float16 but must be torch.float32"):
        check_scores(run_of(CoOp).method, torch.zeros(2, 3).half())


def test_sys_exit_is_no_success():
    ((state, _, why),) = checks.lines(lambda: sys.exit(0))
    assert state == "wrong" and why.startswith("It calls sys.exit(0), which ends the run")


def test_a_changed_clip_ends_the_checks():
    """As what follows would blame something else."""
    kind = type("Mistaken", (CoOp,), MISTAKES["a mean"][1])
    states = [state for state, *_ in checks.lines(lambda: run_of(kind))]
    assert states == ["ok", "wrong"]
