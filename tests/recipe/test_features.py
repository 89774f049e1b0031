"""Runs on rows of features: as on images, with published numbers, and what is refused."""

import json
import os
import random

import pytest
import tiny
import torch
from cases import slow_but
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.transforms import build_transform
from dassl.utils import read_image
from feature_files import TEMPLATE, write
from paths import GOLDEN, ROOT
from tiny import learned, results

import train
from datasets import ImageDataset
from recipe.settings import build_cfg
from trainers.prompting import Teacher, build_method, load_clip, load_run
from trainers.prompting.backbones.openai import OPENAI
from trainers.prompting.capabilities.at_test_time import learns_from_stream
from trainers.prompting.capabilities.on_support import searches
from trainers.prompting.embedded import file_sha256
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.storage.features import read_features
from trainers.prompting.trainer.feature_rows import clip_of

EXPECTED = json.loads((ROOT / "tests" / "golden" / "whurs19.json").read_text())
ALL = [(clip, pick) for clip in EXPECTED for pick in EXPECTED[clip]["few_shot"]]
IMAGE = 0.34  # one of 302 test images
DATA = ROOT / "configs" / "datasets"
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")


def whurs19(folder, clip, trainer, seed=1, shots=1, *, data="whurs19", pairs=()):
    """Train as `scripts/few_shot.sh whurs19` does, and return the record."""
    words = ["--seed", str(seed), "--trainer", trainer, "--output-dir", str(folder)]
    words += ["--dataset-config-file", str(DATA / f"{data}.yaml")]
    words += ["--config-file", str(ROOT / "configs" / "trainers" / trainer / "features.yaml")]
    file = ROOT / "assets" / f"whurs19_{clip}.safetensors"
    words += ["DATASET.NUM_SHOTS", str(shots), "DATASET.FEATURES", str(file), *pairs]
    assert train.run(words) == 0
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize("clip, pick", [("vit_b_32", "seed1/1shots"), *(
    (clip, pick) for clip, pick in ALL if pick in ("seed2/4shots", "seed3/16shots")
)])  # fmt: skip
def test_numbers_of_public_code_and_of_independent_lines(tmp_path, clip, pick):
    expected = EXPECTED[clip]["few_shot"][pick]
    seed, shots = (int("".join(filter(str.isdecimal, part))) for part in pick.split("/"))
    linear = ["TRAINER.ADAPTER.CONSTRAINT", "none"]
    for name, trainer, pairs in (
        ("TipAdapter", "TipAdapter", []), ("TipAdapterF", "TipAdapterF", []),
        ("TaskRes", "TaskRes", []), ("CLAP", "CLAP", []), ("ZS-LP", "CLAP", linear),
    ):  # fmt: skip
        record = whurs19(tmp_path / name, clip, trainer, seed, shots, pairs=pairs)
        assert record["accuracy"] == pytest.approx(expected[name], abs=IMAGE), (name, pick)


@pytest.mark.parametrize("clip", EXPECTED)
def test_zero_shot(tmp_path, clip):
    name = {"rn50": "RN50", "vit_b_32": "ViT-B/32", "vit_l_14": "ViT-L/14"}[clip]
    record = whurs19(tmp_path / "a", clip, "ZeroshotCLIP")
    assert record["accuracy"] == pytest.approx(EXPECTED[clip]["zero_shot"], abs=0.01)
    assert record["backbone"] == name and record["num_test"] == 302
    file = ROOT / "assets" / f"whurs19_{clip}.safetensors"
    assert record["features"] == file_sha256(file)
    record = whurs19(tmp_path / "b", clip, "ZeroshotCLIP", data="whurs19_all")
    assert record["accuracy"] == pytest.approx(EXPECTED[clip]["zero_shot_all"], abs=0.01)
    assert record["num_test"] == 1005


@pytest.mark.parametrize("clip", EXPECTED)
def test_tda_in_the_order_of_the_file(clip):
    found = read_features(ROOT / "assets" / f"whurs19_{clip}.safetensors")
    model = model_on(found, "TDA", {"POSITIVE_ALPHA": 4.0, "POSITIVE_BETA": 8.0})
    right = model.predict(found.image.float()).logits.argmax(1) == found.label
    expected = EXPECTED[clip]["tda_all"]
    assert 100 * float(right.float().mean()) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("clip", slow_but(EXPECTED, "vit_b_32"))
def test_transclip_on_all_images(tmp_path, clip):
    record = whurs19(tmp_path / "a", clip, "TransCLIP", data="whurs19_all")
    assert record["accuracy"] == pytest.approx(EXPECTED[clip]["transclip_all"], abs=0.1)
    found = read_features(ROOT / "assets" / f"whurs19_{clip}.safetensors")
    prior = model_on(found, "ZeroshotCLIP", {})(found.image.float()).softmax(1)
    for form, kind in (("released", "public_alias"), ("aligned", "no_alias")):
        model = model_on(found, "TransCLIP", {"FORM": form})
        output = model.predict(found.image.float())
        right = model.predict_all(output.image, output.text, prior).argmax(1) == found.label
        expected = EXPECTED[clip]["on_top_all"][f"probabilities_{kind}"]
        assert 100 * float(right.float().mean()) == pytest.approx(expected, abs=0.1)


def test_transclip_with_shots_by_the_command(tmp_path):
    for form, name in (("aligned", "TransCLIP"), ("released", "released")):
        pairs = ["TRAINER.TRANSCLIP.FORM", form]
        record = whurs19(tmp_path / form, "vit_b_32", "TransCLIP", 2, 4, pairs=pairs)
        expected = EXPECTED["vit_b_32"]["few_shot"]["seed2/4shots"][name]
        assert record["accuracy"] == pytest.approx(expected, abs=IMAGE)


@pytest.mark.parametrize("clip, pick", ALL if os.environ.get("ALL_PICKS") else ALL[::20])
def test_transclip_and_linear_probe_with_shots(clip, pick):
    found = read_features(ROOT / "assets" / f"whurs19_{clip}.safetensors")
    (train_rows, val), expected = drawn(found, pick), EXPECTED[clip]["few_shot"][pick]
    test = found.split["test"]
    for name, trainer, node in (
        ("TransCLIP", "TransCLIP", {"FEW_SHOT": True}),
        ("released", "TransCLIP", {"FEW_SHOT": True, "FORM": "released"}),
        ("LinearProbe C 1", "LinearProbe", {"C": 1.0}),
        ("LinearProbe C 100", "LinearProbe", {"C": 100.0}),
    ):
        model = model_on(found, trainer, node, train_rows)
        if trainer == "TransCLIP":
            model.take_validation(found.image[val].float(), found.label[val])
        with torch.no_grad():
            right = model.predict(found.image[test].float()).logits.argmax(1) == found.label[test]
        accuracy = 100 * float(right.float().mean())
        assert accuracy == pytest.approx(expected[name], abs=IMAGE), (name, pick)


def drawn(found, pick):
    """Return the rows that Dassl draws for training, then for validation."""
    seed, shots = (int("".join(filter(str.isdecimal, part))) for part in pick.split("/"))
    random.seed(seed)
    parts = []
    for part, count in (("train", shots), ("val", min(shots, 4))):
        by_class = {}
        for row in found.split[part]:
            by_class.setdefault(int(found.label[row]), []).append(row)
        parts.append([row for group in by_class.values() for row in random.sample(group, count)])
    return parts


def model_on(found, name, node, rows=()):
    clip_model = clip_of(found, TEMPLATE)
    support = {"images": found.image[rows].float(), "labels": found.label[rows]}
    return build_method(
        name, node, clip_model, found.classnames, "WHURS19", support if rows else None
    )


@pytest.mark.parametrize("clip, pick", ALL if os.environ.get("ALL_PICKS") else ALL[::7])
def test_the_search_of_tip_adapter(clip, pick):
    """On all validation rows, as in the public code; a run takes at most four of each class."""
    found = read_features(ROOT / "assets" / f"whurs19_{clip}.safetensors")
    rows = drawn(found, pick)[0]
    node = {"SEARCH_HP": True, "SEARCH_SCALE": [12, 10], "SEARCH_STEP": [200, 20]}
    model = model_on(found, "TipAdapter", node, rows)
    val, test = (found.split[part] for part in ("val", "test"))
    model.take_validation(found.image[val].float(), found.label[val])
    right = model(found.image[test].float()).argmax(1) == found.label[test]
    expected = EXPECTED[clip]["few_shot"][pick]["searched"]
    assert 100 * float(right.float().mean()) == pytest.approx(expected, abs=3 * IMAGE)


# ---------------------------------------------------------------------- as on images


def halves(root):
    """Write images, and the file of features of the tiny CLIP of them; return both paths."""
    images = tiny.write_halves(root / "images")
    node = {"ROOT": str(images), "NUM_SHOTS": -1, "SUBSAMPLE_CLASSES": "all"}
    keys = {f"DATASET.{key}": value for key, value in node.items()}
    cfg = build_cfg([("test", {**keys, "DATASET.NAME": "ImageFolder", "TRAINER.NAME": "CLAP"})])
    found: ImageDataset = DATASET_REGISTRY.get("ImageFolder")(cfg)
    parts = {"train": found.train_x, "val": found.val, "test": found.test}
    items = [item for part in parts.values() for item in part]
    clip_model = load_clip(TINY)
    model = build_method("ZeroshotCLIP", {}, clip_model, found.classnames).eval()
    transform = build_transform(tiny_cfg(), is_train=False)
    seen = [
        torch.stack([transform(read_image(x.impath)) for x in group]) for group in parts.values()
    ]
    rows = torch.cat([model.clip_features(some) for some in seen])
    raw = Teacher(clip_model, found.classnames, [TEMPLATE]).raw
    numbers = iter(range(len(items)))
    header = {
        "classnames": found.classnames,
        "split": {part: [next(numbers) for _ in group] for part, group in parts.items()},
        "images": [os.path.relpath(item.impath, images) for item in items],
        "logit_scale": float(model.logit_scale),
        "normalised": False,
        "dataset": "ImageFolder",
        "clip": TINY,
    }
    label = torch.tensor([item.label for item in items])
    tensors = {"image": rows, "label": label, f"text/{TEMPLATE}": raw}
    return images, write(root / "features.safetensors", tensors, header)


def tiny_cfg():
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (32, 32), "bicubic"
    cfg.INPUT.TRANSFORMS = ["normalize"]
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(OPENAI.mean), list(OPENAI.std)
    return cfg


ALIKE = ("ZeroshotCLIP", "CLIPAdapter", "CLAP", "TaskRes", "TipAdapterF", "TDA")


@pytest.mark.parametrize("name", slow_but(ALIKE, "CLIPAdapter"))
def test_runs_on_features_are_those_on_images(tmp_path, monkeypatch, name):
    """If loading the CLIP draws nothing, an adapter starts alike, too."""

    def drawing_nothing(name):
        with torch.random.fork_rng(devices=[]):
            return load_clip(name)

    monkeypatch.setattr("trainers.prompting.trainer.trainer.load_clip", drawing_nothing)
    images, file = halves(tmp_path)
    usual = ["DATASET.NAME", "ImageFolder", "DATASET.NUM_SHOTS", "2", "SEED", "1"]
    usual += ["INPUT.TRANSFORMS", "['normalize']", "DATALOADER.NUM_WORKERS", "0"]
    usual += ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.NAME", "sgd", "OPTIM.LR", "0.01"]
    usual += ["OPTIM.LR_SCHEDULER", "cosine", "OPTIM.MAX_EPOCH", "2"]
    for subset in ("all", "new") if name == "ZeroshotCLIP" else ("all",):
        more = ["DATASET.SUBSAMPLE_CLASSES", subset, "DATASET.LABEL_NOISE", "0.25", *usual]
        sides = {}
        for side, words, pairs in (
            ("images", ["--root", str(images), "--backbone", TINY], []),
            ("rows", [], ["DATASET.FEATURES", str(file)]),
        ):
            folder = tmp_path / name / subset / side
            words += ["--trainer", name, "--output-dir", str(folder)]
            assert train.run([*words, *more, *pairs]) == 0
            record = results(folder)
            sides[side] = record, read_predictions(folder)
        (record, arrays), (other, rows) = sides.values()
        assert other["accuracy"] == record["accuracy"]
        assert other["temperature"] == pytest.approx(record["temperature"], rel=1e-4)
        assert list(rows["image"]) == list(arrays["image"])
        far = abs(rows["label_log_probability"] - arrays["label_log_probability"]).max()
        assert far < 1e-4 * abs(arrays["label_log_probability"]).max(), (name, subset)
        run = load_run(folder)  # of rows, and answers alike to their images
        if subset == "all" and not learns_from_stream(run.model):
            tested = [run.preprocess(run.read(images / x)) for x in rows["image"]]
            log_p = run.model.predict(torch.stack(tested)).logits.log_softmax(1)
            log_p = log_p[range(len(tested)), rows["label"]].numpy()
            assert abs(log_p - rows["label_log_probability"]).max() == 0, (name, subset)
            if not searches(run.model):  # the rows calibrate as the images do
                scores = run.calibration.scores.tolist()
                assert scores == pytest.approx(record["lac_scores"], abs=1e-4)


def test_a_resumed_run_draws_the_same_views(tmp_path):
    torch.manual_seed(0)
    views = {"views": torch.randn(3, 12, 16), "views_of": torch.arange(12)}
    file = write(tmp_path / "a.safetensors", views)
    pairs = ["TRAIN.CHECKPOINT_FREQ", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"]
    pairs += ["OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "3"]
    whole = run_own(tmp_path / "whole", file, "CLIPAdapter", pairs)
    run_own(tmp_path / "cut", file, "CLIPAdapter", pairs)
    model = tmp_path / "cut" / "clip_adapter"
    (model / "model.pth.tar-3").unlink()
    (model / "checkpoint").write_text("model.pth.tar-1\n")
    assert run_own(tmp_path / "cut", file, "CLIPAdapter", pairs)["accuracy"] == whole["accuracy"]
    one, other = (learned(tmp_path / folder, 3) for folder in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    plain = write(tmp_path / "b.safetensors")
    run_own(tmp_path / "plain", plain, "CLIPAdapter", pairs)
    other = learned(tmp_path / "plain", 3)
    assert not torch.equal(one["fc.0.weight"], other["fc.0.weight"])


# ---------------------------------------------------------------------- what is refused


def own_words(folder, file, trainer, pairs=(), flags=()):
    words = ["--seed", "1", "--trainer", trainer, "--output-dir", str(folder), *flags]
    words += ["--dataset-config-file", str(DATA / "features.yaml")]
    return [*words, "DATASET.NUM_SHOTS", "2", "DATASET.FEATURES", str(file), *pairs]


def run_own(folder, file, trainer, pairs=()):
    assert train.run(own_words(folder, file, trainer, pairs)) == 0
    return results(folder)


REFUSED = {
    "a prompt": ("CoOp", [], [], "choose another backbone, or one of CLAP, CLIPAdapter, "),
    "both sides": ("MaPLe", [], [], "side of this backbone is closed"),
    "inside": ("CLIPLoRA", [], [], "but the text side of this backbone is closed"),
    "views": ("TDA", ["TRAINER.TDA.VIEWS", "16"], [], "TDA reads 16 random views of each test ima"),
    "mirrored": ("CrossModal", [], [], "mirrors training images, but a file of features has only"),
    "others": ("CLAP", ["TEST.OOD", "['Emoji']"], [], "TEST.OOD is ['Emoji'], but the run has onl"),
    "a backbone": ("CLAP", [], ["--backbone", "RN50"], "A backbone is named, but the features in"),
    "a key": ("CLAP", ["MODEL.BACKBONE.NAME", "RN50"], [], "A backbone is named, but the features"),
    "a data set": ("CLAP", ["DATASET.NAME", "TinyColours"], [], "DATASET.FEATURES is set, but the"),
    "no file": ("CLAP", ["DATASET.FEATURES", "no.safetensors"], [], "There is no file of features"),
    "empty": (
        "CLAP", ["DATASET.FEATURES", ""], ["--backbone", "emoji"], "FeatureFile is read from a file"
    ),
    "seven": ("TipAdapter", ["DATASET.NAME", "ImageNet"], [], "reads the sentence 'itap of a "),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, capsys, case):
    trainer, pairs, flags, why = case
    file = write(tmp_path / "a.safetensors", header={"dataset": "ImageNet"})
    assert train.run(own_words(tmp_path / "run", file, trainer, pairs, flags)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and why in said, said
    assert ", MTA" not in said  # nor others that read views


def test_another_file_does_not_resume(tmp_path, capsys):
    file = write(tmp_path / "a.safetensors")
    run_own(tmp_path / "run", file, "CLAP", ["OPTIM.MAX_EPOCH", "1"])
    other = write(tmp_path / "b.safetensors", header={"logit_scale": 20.0})
    evaluates = ["--eval-only", "--model-dir", str(tmp_path / "run")]
    assert train.run(own_words(tmp_path / "eval", other, "CLAP", flags=evaluates)) == 2
    assert "features of another encoder (logit_scale 10.0, not 20.0)" in capsys.readouterr().err
    write(file, seed=1)
    assert train.run(own_words(tmp_path / "run", file, "CLAP", ["OPTIM.MAX_EPOCH", "2"])) == 2
    said = capsys.readouterr().err
    assert "was begun otherwise (" in said and "DATASET.FEATURES " in said
