"""Every method in float16, computed on the CPU: a step, an evaluation, and a resumed run."""

import json
import shutil
from copy import deepcopy

import pytest
import tiny
import torch
from cases import slow_but
from models import images, model_of, settings, support_of

from trainers.prompting import Teacher
from trainers.prompting.building.support import encode_batches
from trainers.prompting.capabilities.one_view import OneView
from trainers.prompting.method import METHODS
from trainers.prompting.running import precision
from trainers.prompting.running.precision import INIT_SCALE, Precision
from trainers.prompting.step import training_step
from trainers.prompting.trainer.trainer import PromptTrainer

CPU = torch.device("cpu")
NAMES = ["forest", "sea or lake", "road"]
LABELS = torch.arange(3)
HALF = [name for name in METHODS if name != "SkipTuning"]  # test_skiptuning.py
VIEWS = 10  # of which a tenth is selected
SEARCHES = "SEARCH", "SEARCH_HP"  # fits for several settings
SIGNS = {"TTC": 0.05}  # pixels move along the sign of a gradient, which rounding can change


def take_support(method, name, how) -> None:
    """Give a method its support as a trainer does: encoded in the precision of the run."""
    support = support_of(name, NAMES)
    features, labels = encode_batches(
        method, [{"img": support["images"][0], "label": support["labels"]}], how
    )
    method.make_room(len(labels))
    if isinstance(method, OneView):
        method.take_views([features], labels)
    else:
        method.take_support(features[None], labels)


def outcome(tiny_clip, name, kind) -> torch.Tensor:
    """Do a step, and return the logits of an evaluation: all finite, and no step is skipped."""
    embedding = tiny_clip.token_embedding.weight  # large, and never written to
    clip_model = deepcopy(tiny_clip, {id(embedding): embedding})
    how = Precision(kind, CPU, half_on_cpu=True)
    torch.manual_seed(0)
    node = settings(name) | {key: False for key in SEARCHES if key in METHODS[name].defaults}
    method = model_of(clip_model, name, node, NAMES)
    for teacher in (part for part in method.modules() if isinstance(part, Teacher)):
        del teacher.sentences.rows[2:]
    how.place(method, clip_model)
    if method.support_passes:
        take_support(method, name, how)
    inputs = images()
    if method.trains:
        with how.autocast():
            method.begin_stage(0)
            rows = method.clip_features(inputs) if method.trains_on_support else inputs
        batch = method.batch([rows] * method.views, LABELS[: 0 if method.unlabelled else 3])
        learned = method.learned().values()
        before = [p.detach().clone() for p in learned]
        _, terms = training_step(method.train(), batch, torch.optim.SGD(learned, lr=0.01), how)
        assert terms["loss"].isfinite() and how.scaler.get_scale() == INIT_SCALE
        assert all(p.isfinite().all() for p in learned)
        assert not all(map(torch.equal, before, learned))
    method.eval().reset()
    with torch.no_grad(), how.autocast():
        views = [inputs[:1] + shift for shift in torch.randn(VIEWS)]
        logits = method.predict(views if method.test_views > 1 else inputs).logits
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    return logits


@pytest.mark.parametrize("name", HALF)
def test_a_step_and_an_evaluation(tiny_clip, name):
    outcome(tiny_clip, name, "fp16")


@pytest.mark.parametrize("name", slow_but(HALF, "ALIGN", "CoOp"))
def test_amp_computes_nearly_the_same(tiny_clip, name):
    fp16, amp = (outcome(tiny_clip, name, kind) for kind in ("fp16", "amp"))
    share = SIGNS.get(name, 0.01)
    assert (fp16 - amp).abs().max() < share * amp.abs().max()


def test_a_killed_run_goes_on_with_its_loss_scale(tmp_path, monkeypatch):
    """It begins so high that steps are skipped in the first epoch: from it, others would be."""
    monkeypatch.setattr(PromptTrainer, "half_on_cpu", True)
    monkeypatch.setattr(precision, "INIT_SCALE", 2.0**18)
    prec = ["TRAINER.ALIGN.PREC", "fp16"]

    def after_epoch(self, done=PromptTrainer.after_epoch):
        done(self)
        if self.epoch == 0:  # what a run that is killed here leaves
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")

    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "after_epoch", after_epoch)
        assert tiny.run(tmp_path, "ALIGN", tmp_path / "whole", 2, extra=prec) == 0
    assert tiny.run(tmp_path, "ALIGN", tmp_path / "parts", 2, extra=prec) == 0
    file = "MultiModalPromptLearner/model.pth.tar-2"
    whole, parts = (torch.load(tmp_path / x / file, weights_only=True) for x in ("whole", "parts"))
    assert whole["scaler"] == parts["scaler"] and 1 < whole["scaler"]["scale"] < 2.0**18
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    record = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert record["precision"] == "float16"
