"""Runs on a CLIP with a closed image side, a ConvNeXt, whose images are squashed to a square."""

import json
from types import SimpleNamespace

import pytest
import tiny
import torch
from dassl.engine import build_trainer
from foreign import TEXT, open_clip_folder
from hub import stand_in
from PIL import Image
from safetensors.torch import load_file
from tiny import results
from torch import nn

import train
from benchmark.__main__ import main
from benchmark.data.encoding import Encoder
from trainers.prompting import AtTestTime, load_clip, load_run
from trainers.prompting.building.transforms import Images, Squashed, preprocess_of

pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

VISION = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
          "timm_proj": "linear", "image_size": 32}  # fmt: skip
SQUASH = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
CROP = ["INPUT.TRANSFORMS", "['random_resized_crop', 'normalize']"]
CROP += ["INPUT.RRCROP_SCALE", "(1.0, 1.0)"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}
    return f"open_clip:{open_clip_folder(tmp_path_factory.mktemp('c'), config, SQUASH)[0]}"


def arguments(backbone, *args, extra=()):
    found = tiny.arguments(*args)
    found[found.index("--backbone") + 1] = backbone
    return [*found, *extra]


def made(backbone, *args, extra=()):
    return build_trainer(train.setup_cfg(train.parse_args(arguments(backbone, *args, extra=extra))))


def wide():
    """An image four times as wide as high, whose ends are white; a crop of its centre is black."""
    image = Image.new("RGB", (256, 64))
    for left in (0, 224):
        image.paste((255, 255, 255), (left, 0, left + 32, 64))
    return image


def has_ends(x):
    return bool(
        (x[:, :, :2] > 0.9).all() and (x[:, :, -2:] > 0.9).all() and (x[:, :, 16] < 0).all()
    )


def test_images_are_squashed_in_every_place(backbone, tmp_path, capsys):
    data = tiny.write_halves(tmp_path / "data")
    extra = [*CROP, *tiny.OF_HALVES, "all", "TEST.OOD", "['TinyOthers']"]
    trainer = made(backbone, data, "TipAdapterF", extra=extra)
    assert "each image is resized: INPUT.RESIZE squash" in capsys.readouterr().out
    (other,) = trainer.detection._loaders.values()
    loaders = trainer.train_loader_x, trainer.test_loader, trainer.validation, other
    for loader in loaders:
        assert has_ends(loader.dataset.transform(wide()))
    body = {"__init__": nn.Module.__init__, "test_views": 3}
    given = Images.in_config(trainer.cfg.INPUT)
    method = type("OfThree", (AtTestTime,), body)()
    assert all(map(has_ends, preprocess_of(method, given, 1)(wide())))


def test_files_of_features_are_of_squashed_images(backbone, tmp_path):
    args = SimpleNamespace(backbone=backbone, batch=2, output=tmp_path, half=False)
    source = SimpleNamespace(cls=SimpleNamespace(__name__="Mine", upright=False), fingerprint="")
    encoder = Encoder(load_clip(backbone), source, args)
    assert has_ends(encoder.plain(wide())) and isinstance(encoder.augmented, Squashed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ZeroshotCLIP", "TipAdapterF", "CoOp"])
def test_train_resume_predict_and_export(backbone, tmp_path, capsys, monkeypatch, name):
    out, at_once = tmp_path / "run", tmp_path / "at_once"
    if name == "ZeroshotCLIP":
        assert train.run(arguments(backbone, tmp_path, name, out, 2)) == 0
    else:
        assert train.run(arguments(backbone, tmp_path, name, at_once, 2)) == 0
        with tiny.killed_after(epoch=1):
            assert train.run(arguments(backbone, tmp_path, name, out, 2)) == 130
        assert train.run(arguments(backbone, tmp_path, name, out, 2, "--resume", str(out))) == 0
        there, here = (load_run(folder).model.state_dict() for folder in (at_once, out))
        assert all(torch.equal(there[key], here[key]) for key in there)
    record = results(out)
    run = load_run(out)
    assert run.images.resize == "squash" and has_ends(run.preprocess(wide()))
    folder = ["--model-dir", str(out)]
    if name == "CoOp":
        image = run.preprocess(wide())[None]
        there = {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in (out / "results.json", out / "run.json", *out.glob("prompt_learner/*"))
        }
        with stand_in(there, monkeypatch, tmp_path / "cache"):
            assert torch.equal(load_run("hf://user/repo").model(image), run.model(image))
        assert main(["export", *folder, "--output", str(tmp_path / "run.pt2")]) == 0
        program = torch.export.load(tmp_path / "run.pt2", extra_files=(extra := {"run.json": ""}))
        assert json.loads(extra["run.json"])["resize"] == "squash"
        torch.testing.assert_close(program.module()(image), run.model(image), atol=1e-4, rtol=1e-4)
    if name != "TipAdapterF":
        assert main(["export", *folder, "--output", str(tmp_path / "text.safetensors")]) == 0
        assert load_file(tmp_path / "text.safetensors")["weight"].shape == (4, 24)
    wide().save(tmp_path / "wide.png")
    capsys.readouterr()
    assert main(["predict", *folder, str(tmp_path / "wide.png")]) == 0
    assert "wide.png" in capsys.readouterr().out
    assert record["num_test"] == 16 and main(["report", str(out)]) == 0


def test_a_method_that_needs_the_inside_is_refused(backbone, tmp_path, capsys):
    assert train.run(arguments(backbone, tmp_path, "CLIPLoRA")) == 2
    assert "but the image side of this backbone is closed" in capsys.readouterr().err
