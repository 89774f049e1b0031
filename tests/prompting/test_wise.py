"""WiSE-FT: weights between CLIP's and those of a training, in evaluations and exported files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_files import build, near, read
from models import NAMES, settings, support_of
from paths import GOLDEN
from safetensors import safe_open
from tiny import results, run

from recipe.settings import _defaults
from trainers.prompting import UserError, build_method, load_clip, load_run
from trainers.prompting.building.toward_start import (
    move_toward_start,
    start_weights,
    toward_start,
    tuned_tensors,
)
from trainers.prompting.trainer.evaluation import UNTESTED, why_uncalibrated
from trainers.prompting.trainer.trainer import PromptTrainer
from trainers.prompting.use.commands import main

FILES = {
    "ln_only": "LNOnly", "cliplora": "CLIPLoRA", "clipsvd": "CLIPSVD", "prolip": "ProLIP",
}  # fmt: skip
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FILES)
def test_the_logits_of_weights_between(name, tiny_clip, tmp_path):
    with safe_open(GOLDEN / "wiseft.safetensors", "pt") as file:
        about = json.loads(file.metadata()["files"])[name]
        shares, expected = file.get_tensor("alpha"), file.get_tensor(f"{name}/logits_eval")
    golden = read(GOLDEN / about["params"].rpartition("/")[2])
    method = build(golden, tiny_clip, tmp_path).eval()
    images, before = golden.tensors["image"], method(golden.tensors["image"])
    for share, logits in zip(shares.tolist(), expected, strict=True):
        with toward_start(method, start_weights(method, tiny_clip), share):
            assert near(method(images), logits)
    assert torch.equal(method(images), before)  # they are as they were


def learned(name, clip_model, **node):
    method = build_method(
        name, settings(name) | node, clip_model, NAMES, support=support_of(name, NAMES)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in method.learned().values():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return method.eval()


TAKEN = {
    "LNOnly": {"LN_ENDS": True}, "CLIPLoRA": {"PARAMS": ["q", "fc", "proj"]}, "CLIPSVD": {},
    "ProLIP": {"SIDE": "text"}, "SkipTuning": {}, "TwoSFS": {"STAGE": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_no_share_of_the_weights_is_clip(name, tiny_clip):
    method = learned(name, tiny_clip, **TAKEN[name])
    untouched = build_method(name, settings(name) | TAKEN[name], tiny_clip, NAMES).eval()
    before = method(IMAGES)
    assert not near(before, untouched(IMAGES), 1e-2)
    start = start_weights(method, tiny_clip)
    move_toward_start(method, start, 0.5)
    assert not near(method(IMAGES), before, 1e-3)
    move_toward_start(method, start, 0.0)
    assert near(method(IMAGES), untouched(IMAGES))


REFUSED = {
    "CoOp": "prompt_learner.ctx",
    "MaPLe": "prompt_learner.ctx",
    "CLIPAdapter": "adapter.fc.0.weight",
    "MultiModalAdapter": "adapter_learner",
    "TaskRes": "prompt_learner.text_feature_residuals",
    "TipAdapter": "adapter.keys",
    "GDA": "W",
    "TwoSFS": "classifier",
    "TextRefiner": "prompt_learner.ctx",
    "ZeroshotCLIP": "nothing",
    "ZERO": "nothing",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_learns_something_else_is_refused(name, tiny_clip):
    method = learned(name, tiny_clip)
    with pytest.raises(UserError, match=f"as it learns {REFUSED[name]}") as error:
        start_weights(method, tiny_clip)
    assert "\n" not in str(error.value)


def test_a_run_evaluates_and_exports_them(tmp_path, capsys):
    out, half = tmp_path / "out", tmp_path / "half"
    assert run(tmp_path, "LNOnly", out, extra=["OPTIM.LR", "0.5"]) == 0
    more = ["--eval-only", "--model-dir", str(out)]
    words = ["OPTIM.LR", "0.5", "TEST.WISE", "0.5"]
    assert run(tmp_path, "LNOnly", half, 2, *more, extra=words) == 0
    assert results(half)["run"]["test"]["TEST.WISE"] == 0.5
    whole, between = load_run(out), load_run(out, weight=0.5)
    assert "not 0.5 of them" in between.calibration and between.temperature == 1
    for weight in (-1, 2, float("nan")):
        with pytest.raises(UserError, match=f"weight is {weight!r} but must be from 0"):
            load_run(out, weight=weight)
    file = tmp_path / "half.pt2"
    words = ["export", "--model-dir", str(out), "--weight", "0.5", "--output", str(file)]
    assert main(words) == 0
    assert near(torch.export.load(file).module()(IMAGES), between.model(IMAGES))
    assert not near(whole.model(IMAGES), between.model(IMAGES), 1e-3)
    stored = np.load(half / "predictions.npz")
    paths = [next(tmp_path.rglob(str(name))) for name in stored["image"]]
    images = torch.stack([between.preprocess(between.read(path)) for path in paths])
    top = between.model(images).softmax(1).amax(1).detach()
    assert near(torch.from_numpy(stored["probability"]).float()[:, 0], top, 1e-3)  # float16
    assert main([*words[:3], "--weight", "1.5", "--output", "x.pt2"]) == 2
    assert "weight is 1.5 but must be from 0" in capsys.readouterr().err


def test_a_run_says_before_its_training_that_there_are_none(tmp_path, capsys):
    assert run(tmp_path, "CoOp", tmp_path / "no", extra=["TEST.WISE", "0.5"]) == 2
    assert "it learns prompt_learner.ctx, which no CLIP has" in capsys.readouterr().err
    assert not list((tmp_path / "no").rglob("model.pth.tar-*"))


@pytest.mark.parametrize("share, why", [(0.5, "TEST.WISE evaluates other"), (1.0, UNTESTED)])
def test_a_training_is_calibrated_by_its_own_weights_only(share, why, tiny_clip):
    cfg, data = _defaults(), SimpleNamespace(validation=["image"])
    cfg.TEST.WISE = share
    assert why_uncalibrated(learned("LNOnly", tiny_clip), data, cfg).startswith(why)


def test_the_start_is_not_rounded_by_the_precision_of_a_run(tmp_path, monkeypatch):
    seen, clip_model = [], load_clip(str(GOLDEN / "tiny_clip_seed0.safetensors"))

    def keep(trainer, split):
        seen.extend(p.clone() for p in tuned_tensors(trainer.method, weights)[0].values())
        return test(trainer, split)

    weights, test = clip_model.state_dict(), PromptTrainer._test
    monkeypatch.setattr(PromptTrainer, "_test", keep)
    words = ["TEST.WISE", "0.0", "TRAINER.SKIP.PREC", "amp", "TRAINER.SKIP.START_LAYER"]
    assert run(tmp_path, "SkipTuning", extra=[*words, "2"]) == 0
    method = build_method("SkipTuning", {"START_LAYER": 2}, clip_model, NAMES)
    expected = [weights[place] for place in start_weights(method, clip_model)]
    assert seen and all(map(torch.equal, seen, expected))
