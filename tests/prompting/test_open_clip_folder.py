"""A tuned CLIP as a folder of open_clip: what the package computes with it is the run's."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from foreign import open_clip_config, open_clip_folder
from models import support_of
from paths import GOLDEN
from safetensors.torch import load_file

from trainers.prompting import UserError, build_clip, build_method, load_clip
from trainers.prompting.encoders.descriptions import Asked, describe
from trainers.prompting.method import METHODS
from trainers.prompting.use.open_clip_folder import model_config, write_open_clip

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

NAMES = ["forest", "sea_or_lake", "boeing 737-800"]
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
METADATA = {
    "image_mean": "[0.4, 0.4, 0.4]", "image_std": "[0.2, 0.3, 0.2]", "interpolation": "bicubic",
    "resize": "shortest", "method": "x",
}  # fmt: skip


def tuned(name, node, backbone, support=None):
    """Return a run of a method as if trained."""
    method = build_method(name, node, load_clip(backbone), NAMES, "EuroSAT", support=support).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in method.learned().values():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return SimpleNamespace(model=method, method=name, backbone=backbone, classnames=NAMES)


@torch.no_grad()
def logits_of_package(folder, images):
    """Return logits as a user of open_clip computes them, with what stands in the folder."""
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    run, model = json.loads((folder / "run.json").read_text()), model.eval()
    tokenize = open_clip.get_tokenizer("ViT-B-16", context_length=model.context_length)
    z, features = model.encode_image(images, normalize=True), []
    for name in NAMES:
        each = model.encode_text(tokenize(run["sentences"][name]))
        if run["rule"] == "normalised_mean":
            each = F.normalize(each, dim=-1)
        features.append(F.normalize(each.mean(0), dim=-1))
    h = torch.stack(features)
    if (folder / "classifier.safetensors").exists():
        h = load_file(folder / "classifier.safetensors")["weight"]
    bias = 0 if model.logit_bias is None else model.logit_bias
    return run["logit_scale"] * z @ h.T + bias, model, prepare


LORA = ("CLIPLoRA", {"PARAMS": ["q", "k", "v", "o", "fc", "proj"]})
LAYER_SCALE = open_clip_config({"ls_init_value": 0.5}, {"ls_init_value": 0.5}, quick_gelu=True)
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "head_width": 16, "image_size": 32}
BIAS = {"init_logit_scale": 1.0, "init_logit_bias": -2.0}
CASES = {
    "CLIPLoRA": (*LORA, None),
    "CLIPSVD, scale 50": ("CLIPSVD", {"SCALE": 50.0, "RANK": 0.5}, None),
    "LNOnly, ends": ("LNOnly", {"LN_ENDS": True}, None),
    "ProLIP": ("ProLIP", {}, None),
    "ProLIP, text": ("ProLIP", {"SIDE": "text"}, None),
    "TwoSFS, stage 1": ("TwoSFS", {"STAGE": 1}, None),
    "TwoSFS": ("TwoSFS", {}, None),
    "SkipTuning": ("SkipTuning", {"START_LAYER": 2}, None),
    "open_clip, layer scale": (*LORA, LAYER_SCALE),
    "open_clip, text apart, bias": ("LNOnly", {}, open_clip_config(custom_text=True, **BIAS)),
    "open_clip, ResNet": ("ProLIP", {}, open_clip_config(RESNET, quick_gelu=True)),
}


@pytest.mark.parametrize("case", slow_but(CASES, "CLIPLoRA", "TwoSFS", "open_clip, layer scale"))
def test_open_clip_computes_the_logits_of_the_run(case, tmp_path):
    name, node, config = CASES[case]
    backbone = TINY
    if config:
        backbone = f"open_clip:{open_clip_folder(tmp_path / 'given', config)[0]}"
    run = tuned(name, node, backbone)
    if case == "TwoSFS":
        run.model.begin_stage(1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "new" / "clip"
    told = write_open_clip(run, folder, METADATA)
    assert f"local-dir:{folder}" in told
    found, model, prepare = logits_of_package(folder, images)
    untouched = build_method(name, node, load_clip(backbone), NAMES, "EuroSAT").eval()
    with torch.no_grad():
        expected, before = run.model(images), untouched(images)
    assert float((before - expected).abs().max()) > 1e-2 * float(expected.abs().max())
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert torch.equal(model.logit_scale.detach(), load_clip(backbone).logit_scale.detach())
    assert prepare.transforms[-1].std == [0.2, 0.3, 0.2]
    files = {path.name for path in folder.iterdir()}
    assert ("classifier.safetensors" in files) == (case == "TwoSFS") == ("classifier" in told)
    assert [path.name for path in folder.parent.iterdir()] == ["clip"]
    with torch.no_grad():  # and this project loads it, too
        again = build_method("ZeroshotCLIP", {}, load_clip(f"open_clip:{folder}"), NAMES).eval()
        z = again.output(images).image.z[:, 0]
    assert torch.allclose(z, F.normalize(model.encode_image(images), dim=-1), atol=1e-5)


def test_a_resnet_of_openais_names():
    arch = {"embed_dim": 24, "image_resolution": 32, "vision_layers": [1, 1, 2, 1]}
    arch |= {"vision_width": 8, "vision_patch_size": None, "context_length": 77}
    arch |= {"vocab_size": 49408, "transformer_width": 64, "transformer_heads": 1}
    clip_model = build_clip(arch | {"transformer_layers": 2})
    config = model_config(clip_model, "RN50")
    own = open_clip.CLIP(**config)
    own.load_state_dict(clip_model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(own.eval().encode_image(x), clip_model.visual(x), atol=1e-5)


def test_several_sentences_for_a_class(tmp_path):
    several = "a {}. | the big {}."
    clip_model = load_clip(TINY)
    text = describe(Asked(several), NAMES, clip_model)
    method = build_method("ZeroshotCLIP", {}, clip_model, NAMES, sentences=text).eval()
    run = SimpleNamespace(model=method, method="ZeroshotCLIP", backbone=TINY, classnames=NAMES)
    write_open_clip(run, tmp_path / "clip", METADATA)
    images = torch.randn(2, 3, 32, 32)
    found, _, _ = logits_of_package(tmp_path / "clip", images)
    assert float((found - method(images)).abs().max()) <= 1e-5 * float(found.abs().max())


REFUSED = {
    "CoOp": "it learns prompt_learner.ctx, which no CLIP has; write a program instead",
    "TaskRes": r"it learns prompt_learner.text_feature_residuals, .* these \(.safetensors\)",
    "MaPLe": r"it learns prompt_learner.ctx, .*; write a program instead \(.pt2, .onnx\) or",
    "CLIPAdapter": "it learns adapter.fc.0.weight, .*; write a program",
    "TipAdapter": "it learns adapter.keys, which no CLIP has; write a program",
    "GDA": "it learns W, which no CLIP has; write a program",
    "TPT": "TPT adapts to the images that it classifies",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_a_clip_is_told_what_to_write(name, tmp_path):
    node = {"PROMPT_DEPTH": 2} if "PROMPT_DEPTH" in METHODS[name].defaults else {}
    run = tuned(name, node, TINY, support_of(name, NAMES))
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        write_open_clip(run, tmp_path / "clip", METADATA)
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path):
    run = tuned("LNOnly", {}, TINY)
    (tmp_path / "full").mkdir()
    for file in (tmp_path / "full" / "mine.txt", tmp_path / "file"):
        file.write_text("kept")
        place = tmp_path / file.relative_to(tmp_path).parts[0]
        with pytest.raises(UserError, match="is not an empty folder: name another one"):
            write_open_clip(run, place, METADATA)
        assert file.read_text() == "kept"
    (tmp_path / "empty").mkdir()
    write_open_clip(run, tmp_path / "empty", METADATA)
    assert (tmp_path / "empty" / "open_clip_config.json").exists()


def test_a_clip_that_open_clip_would_compute_otherwise_is_refused(tmp_path, monkeypatch):
    given = open_clip.create_model
    wrong = lambda name, **how: given(name, **how).apply(lambda m: setattr(m, "eps", 0.5))  # noqa: E731
    monkeypatch.setattr(open_clip, "create_model", wrong)
    with pytest.raises(UserError, match="with its weights, logits are off by"):
        write_open_clip(tuned("LNOnly", {}, TINY), tmp_path / "clip", METADATA)
    assert not any(tmp_path.iterdir())
