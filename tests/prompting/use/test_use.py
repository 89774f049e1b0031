"""Tests of predict, export and load_run, which use a trained run as a classifier."""

import csv
import io
import json
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load
from tiny import COLOURS

from benchmark.__main__ import main
from trainers.prompting import UserError, load_clip, load_run
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.use.commands.export import metadata, text_features

NAMES = sorted(COLOURS)


def images_of(root, split="test"):
    return sorted((root / "tiny_colours").glob(f"{split}_*.png"))


def test_load_run_reproduces_the_accuracy_of_the_run(runs, capsys):
    for method in ("ALIGN", "CoOp", "ZeroshotCLIP"):
        loaded = load_run(runs / method)
        capsys.readouterr()
        assert set(loaded.classnames) == set(NAMES) and loaded.method == method
        assert loaded.settings["DATASET.NUM_SHOTS"] == 4 and loaded.images.size == 32
        assert not loaded.model.training
        record = json.loads((runs / method / "results.json").read_text())
        files = images_of(runs)
        x = torch.stack([loaded.preprocess(Image.open(path)) for path in files])
        found = loaded.model(x).argmax(-1)
        right = [
            loaded.classnames[k] == path.name.split("_")[1]
            for k, path in zip(found.tolist(), files, strict=True)
        ]
        assert 100 * sum(right) / len(right) == pytest.approx(record["accuracy"])


def predict(capsys, *args):
    code = main(["predict", *map(str, args)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_predictions_of_a_folder_in_every_format(runs, capsys, tmp_path):
    (tmp_path / "below").mkdir()
    files = [tmp_path / "a.png", tmp_path / "below" / "b.png"]
    for file, source in zip(files, images_of(runs)[::8], strict=True):
        file.write_bytes(source.read_bytes())
    for other in ("notes.txt", "film.mp4"):
        (tmp_path / other).write_text("no image")
    loaded = load_run(runs / "ALIGN")
    x = torch.stack([loaded.preprocess(Image.open(file)) for file in files])
    expected = loaded.model(x).softmax(-1).topk(2)
    model = "--model-dir", runs / "ALIGN"
    code, out, _ = predict(capsys, *model, tmp_path, "--format", "json", "--batch-size", 1,
                           "--top", 2)  # fmt: skip
    assert code == 0
    for answer, file, values, labels in zip(json.loads(out), files, *expected, strict=True):
        assert answer["image"] == str(file)
        told = [(c["class"], c["probability"]) for c in answer["classes"]]
        assert [name for name, _ in told] == [loaded.classnames[k] for k in labels]
        assert [p for _, p in told] == pytest.approx(values.tolist(), abs=1e-5)
    code, out, _ = predict(capsys, *model, tmp_path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 2 * len(NAMES)
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2, abs=1e-4)
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "4"]
    code, out, _ = predict(capsys, *model, files[0])
    assert out.startswith(f"{files[0]}: {rows[0]['class']} ")


def test_unreadable_images_are_reported_and_skipped(runs, capsys, tmp_path, monkeypatch):
    good, broken, moving = (tmp_path / n for n in ("a.png", "b.jpg", "d.gif"))
    good.write_bytes(images_of(runs)[0].read_bytes())
    broken.write_text("no image")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{good}\n\n{broken}\n{moving}\n"))
    code, out, err = predict(capsys, "--model-dir", runs / "CoOp", "-")
    assert code == 1 and out.startswith(f"{good}: ") and out.count("\n") == 1
    assert f"'{broken}': it is not an image" in err
    assert f"'{moving}': it has 2 frames" in err and "2 of 3 images could not be read" in err


def test_a_list_of_images_does_not_name_itself(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("-\n"))
    code, out, err = predict(capsys, "--model-dir", runs / "CoOp", "-")
    assert code == 2 and not out and "there is no image or folder '-': check the path" in err


def test_a_run_is_not_loaded_on_another_clip(runs, capsys):
    asked = ["--model-dir", runs / "CoOp", "--backbone", "emoji", images_of(runs)[0]]
    code, out, err = predict(capsys, *asked)
    assert code == 2 and not out and "were trained with other weights of 'emoji'" in err


def test_other_class_names_are_used_or_refused(runs, capsys, tmp_path):
    names, image = tmp_path / "names.txt", images_of(runs)[0]
    names.write_text("river\n\nforest\npasture land\n")
    asked = ["--model-dir", runs / "ALIGN", image, "--classnames", names, "--format", "json"]
    code, out, _ = predict(capsys, *asked)
    found = {c["class"] for c in json.loads(out)[0]["classes"]}
    assert code == 0 and found == {"river", "forest", "pasture land"}
    for text, part in {
        "river\nforest\nriver": "'river' is repeated",
        "pasture land\npasture_land": "'pasture_land' is repeated (also as 'pasture land')",
        "River\nriver": "'river' is repeated (also as 'River')",
        "caf\u00e9\ncafe\u0301": "is repeated",
        "river": "The number of class names is 1",
        f"river\n{'forest ' * 80}": "is too long",
    }.items():
        names.write_text(text)
        code, out, err = predict(capsys, *asked)
        assert code == 2 and part in err.splitlines()[-1] and not out


def export(capsys, run, output):
    code = main(["export", "--model-dir", str(run), "--output", str(output)])
    out = capsys.readouterr()
    return code, out.out + out.err


def test_text_features_are_a_classifier(runs, capsys, tmp_path):
    assert export(capsys, runs / "CoOp", tmp_path / "x.safetensors")[0] == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        facts, weight = file.metadata(), file.get_tensor("weight")
        scale = file.get_tensor("logit_scale")
    loaded = load_run(runs / "CoOp")
    assert json.loads(facts["classnames"]) == loaded.classnames and facts["method"] == "CoOp"
    assert json.loads(facts["image_size"]) == 32
    x = torch.randn(3, 3, 32, 32)
    z = F.normalize(load_clip(loaded.backbone).encode_image(x), dim=-1)
    torch.testing.assert_close(scale * z @ weight.T, loaded.model(x), atol=1e-4, rtol=1e-5)
    code, told = export(capsys, runs / "ALIGN", tmp_path / "y.safetensors")
    assert code == 2 and "CoOp, KgCoOp, ProGrad, TCP, CLAP and ZeroshotCLIP" in told
    code, told = export(capsys, runs / "ALIGN", tmp_path / "y.tflite")
    assert code == 2 and "its name must end in .pt2, .onnx, .safetensors" in told
    assert not list(tmp_path.glob("y.*"))


def test_a_folder_for_open_clip(runs, capsys, tmp_path):
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    words = ["export", "--format", "open_clip", "--output", str(tmp_path / "clip"), "--model-dir"]
    assert main([*words, str(runs / "CoOp")]) == 2
    assert "CoOp cannot be written as a CLIP: it learns" in capsys.readouterr().err
    assert main([*words, str(runs / "ZeroshotCLIP")]) == 0
    assert f"create_model('local-dir:{tmp_path / 'clip'}')" in capsys.readouterr().out
    facts = json.loads((tmp_path / "clip" / "run.json").read_text())
    assert [*facts["sentences"]] == load_run(runs / "ZeroshotCLIP").classnames
    assert main([*words, str(runs / "ZeroshotCLIP")]) == 2
    assert "is not an empty folder: name another one" in capsys.readouterr().err


def test_without_normalisation_in_training_there_is_none_afterwards(runs):
    run = load_run(runs / "CoOp")
    for normal, mean, std in (
        (True, run.images.mean, run.images.std), (False, [0] * 3, [1] * 3),
    ):  # fmt: skip
        found = metadata(replace(run, images=replace(run.images, normal=normal)))
        assert json.loads(found["image_mean"]) == list(mean)
        assert json.loads(found["image_std"]) == list(std)


class Sideways(CoOp):
    """Adds visual prompts inside of `image_features`."""

    def image_features(self, images, contexts):
        generator = torch.Generator().manual_seed(0)
        vision = [torch.randn(1, 2, 128, generator=generator)]
        return super().image_features(images, contexts._replace(vision=vision))


class Bent(CoOp):
    """Scales each direction of image features differently."""

    def image_features(self, images, contexts):
        features = super().image_features(images, contexts)
        return features._replace(z=F.normalize(features.z * torch.arange(64), dim=-1))


class Turned(CoOp):
    """Leaves image features unchanged."""

    def image_features(self, images, contexts):
        features = super().image_features(images, contexts)
        return features._replace(z=features.z.neg().neg())


@pytest.mark.parametrize("kind", [Sideways, Bent, Turned])
def test_text_features_are_exported_only_if_they_classify_as_the_model(runs, kind):
    loaded = load_run(runs / "CoOp")
    loaded.model.__class__ = kind
    if kind is Turned:
        content, _ = text_features(loaded)
        x, weights = torch.randn(3, 3, 32, 32), load(content)
        z = F.normalize(load_clip(loaded.backbone).encode_image(x), dim=-1)
        logits = weights["logit_scale"] * z @ weights["weight"].T
        torch.testing.assert_close(logits, loaded.model(x), atol=1e-4, rtol=1e-5)
        return
    with pytest.raises(UserError, match="are not a classifier: .* off by"):
        text_features(loaded)


def test_a_torch_program_gives_the_same_logits(runs, capsys, tmp_path):
    """Of other methods: tests/prompting/test_output.py."""
    code, told = export(capsys, runs / "CoOp", tmp_path / "x.pt2")
    assert code == 0 and "equal to the model's within" in told
    extra = {"run.json": ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=extra).module()
    loaded = load_run(runs / "CoOp")
    assert json.loads(json.loads(extra["run.json"])["classnames"]) == loaded.classnames
    for count in (1, 6):
        x = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(program(x), loaded.model(x), atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_an_onnx_file_gives_the_same_logits(runs, capsys, tmp_path):
    """With visual prompts and transport; test_use_page.py has CoOp."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    assert export(capsys, runs / "ALIGN", tmp_path / "x.onnx")[0] == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    loaded = load_run(runs / "ALIGN")
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["classnames"]) == loaded.classnames
    for count in (1, 6):
        x = torch.randn(count, 3, 32, 32)
        (logits,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), loaded.model(x), atol=1e-4, rtol=1e-5)
