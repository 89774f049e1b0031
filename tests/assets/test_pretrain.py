"""Tests of pre-training the embedded CLIP: captions, views, fast encoders, losses and resuming."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import normalize

from assets.builders import measure, pretrain
from assets.builders.captions import LOOK_NAMES, LOOKS, Captions
from assets.builders.towers import (
    SOFT_MAX,
    contrastive,
    encode_image,
    encode_text,
    late_interaction,
    word_mask,
)
from assets.builders.views import augment
from trainers.prompting import load_clip
from trainers.prompting.backbones import build_clip
from trainers.prompting.backbones.openai import OPENAI
from trainers.prompting.backbones.openai_clip import clip

VOCABULARY = pretrain.ARCH["vocab_size"]


def test_the_fast_encoders_compute_what_openais_class_does():
    clip_model = build_clip(pretrain.ARCH)
    images = torch.randn(3, 3, 64, 64)
    tokens = clip.tokenize(["a photo of a hamster.", "an emoji of a tool.", "red."])
    ends = tokens.argmax(1)
    with torch.no_grad():
        stock = [clip_model.encode_image(images), clip_model.encode_text(tokens)]
        ours = [
            encode_image(clip_model, images)[:, 0],
            encode_text(clip_model, tokens, ends)[1],
        ]
    for a, b in zip(stock, ours, strict=True):
        torch.testing.assert_close(a / a.norm(dim=-1, keepdim=True), b, atol=1e-5, rtol=0)


def some_emoji():
    return [
        {"name": n, "subgroup": s, "tags": t, "unicode_name": n, "short_names": [n]}
        for n, s, t in [("ant", "bug", ["small"]), ("bee", "bug", ["bug"]), ("cat", "pet", [])]
    ]


def test_all_true_pairs_are_positives():
    captions = Captions(some_emoji(), VOCABULARY)
    truth = {filling: captions.truth[f].tolist() for filling, f in captions.number.items()}
    assert truth["bug"] == [True, True, False]
    assert truth["small"] == [True, False, False]
    assert truth["cat, a kind of pet"] == [False, False, True]
    similarity = torch.eye(3)
    perfect = contrastive(similarity, torch.eye(3), 100.0)
    assert perfect > 0  # smoothing
    assert perfect < contrastive(similarity, torch.eye(3)[[1, 0, 2]], 100.0)


def test_a_caption_is_true_of_pictures_with_its_content_and_its_look():
    captions = Captions(some_emoji(), VOCABULARY)
    index = torch.tensor([0, 2] * 200)
    looks = torch.zeros(400, len(LOOKS), dtype=torch.bool)
    looks[:200, LOOK_NAMES.index("solid")] = True
    looks[200:, LOOK_NAMES.index("line")] = True
    tokens, ends, truth = captions.draw(index, looks, np.random.default_rng(1))
    assert truth.diagonal().all()
    assert not truth[index == 0][:, index == 2].any()
    said = {row: text for text, (row, _) in captions.cache.items() if "silhouette" in text}
    silhouettes = [any(torch.equal(row, t) for row in said) for t in tokens]
    assert 10 < sum(silhouettes) < 100
    assert not truth[200:][:, torch.tensor(silhouettes)].any()


def test_a_caption_has_a_word_to_compare():
    item = {"name": "ant", "subgroup": "bug", "unicode_name": "ant", "short_names": ["ant"]}
    captions = Captions([{**item, "tags": [":)", "-_-"]}], VOCABULARY)
    looks = torch.ones(500, len(LOOKS), dtype=torch.bool)
    index = torch.zeros(500, dtype=torch.long)
    tokens, ends, truth = captions.draw(index, looks, np.random.default_rng(1))
    assert word_mask(tokens, ends).any(1).all()
    assert truth.all()


def test_late_interaction_counts_only_words():
    patches = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    words = torch.nn.functional.normalize(torch.randn(3, 6, 8), dim=-1)
    mask = word_mask(words, torch.tensor([5, 4, 3]))
    assert mask.sum(1).tolist() == [3, 2, 1]
    score = late_interaction(patches, words, mask)
    words[~mask] = 7.0
    assert torch.equal(score, late_interaction(patches, words, mask))
    # with one word, half of the score is the mean over patches
    cos = patches @ words[2, 1]
    weight = torch.softmax(cos / SOFT_MAX, 1)
    expected = (cos.mean(1) + (weight * cos).sum(1)) / 2
    torch.testing.assert_close(score[:, 2], expected)


def views(rgba, is_mono):
    count = len(rgba)
    looks = torch.zeros(count, len(LOOKS), dtype=torch.bool)
    looks[:, LOOK_NAMES.index("icon")] = True
    may_flip, mono = torch.ones(count, dtype=torch.bool), torch.full((count,), is_mono)
    return augment(rgba, may_flip, mono, looks, torch.Generator().manual_seed(1))


def test_views_are_finite_and_have_looks():
    rgba = torch.randint(0, 256, (64, 4, 64, 64), dtype=torch.uint8)
    out, looks = views(rgba, is_mono=False)
    assert out.shape == (64, 3, 64, 64)
    assert out.isfinite().all()
    colours = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    black, white = normalize(colours, OPENAI.mean, OPENAI.std)
    assert black.min() - 1e-4 <= out.min() and out.max() <= white.max() + 1e-4
    assert looks.any(1).all()
    counts = looks.sum(0)
    assert all(counts[LOOK_NAMES.index(name)] for name in ("solid", "glossy", "small", "on white"))


def test_an_icon_of_one_colour_is_visible_on_every_background():
    rgba = torch.zeros(200, 4, 64, 64, dtype=torch.uint8)
    rgba[:, 3, 16:48, 16:48] = 255
    out, _ = views(rgba, is_mono=True)
    spread = out.flatten(1).amax(1) - out.flatten(1).amin(1)
    assert spread.min() > 0.3


def run_pretrain(monkeypatch, data, output, *options):
    command = ["x", "--data", str(data / "data.npz"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--batch", "8", "--warmup", "1", *options])
    pretrain.main()


@pytest.fixture
def data(tmp_path):
    """Write pictures of three emoji in two styles, and an archive with two classes of them."""
    rng = np.random.default_rng(1)
    styles = [{"name": "a", "look": "flat", "emoji": True}]
    styles += [{"name": "b", "look": "line", "emoji": False}]
    np.savez(
        tmp_path / "data.npz",
        images=rng.integers(0, 256, (6, 64, 64, 4), dtype=np.uint8),
        emoji=np.array([0, 1, 2] * 2),
        style=np.array([0] * 3 + [1] * 3),
        meta=np.array(json.dumps({"styles": styles, "emoji": some_emoji()})),
    )
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "png")
    rows = [["x/0.png", label, name] for label, name in enumerate(["bug", "pet"])]
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as file:
        file.writestr("images/x/0.png", buffer.getvalue())
        split = {"train": rows * 3, "val": rows, "test": rows}
        file.writestr("split_emoji.json", json.dumps(split))
    return tmp_path


def test_pretraining_runs_resumes_and_is_measured(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 0)  # write a checkpoint at each step
    run_pretrain(monkeypatch, data, tmp_path / "once", "--steps", "2")
    file = tmp_path / "once" / "clip.safetensors"
    assert f"{file}: 2 steps" in capsys.readouterr().out

    # stopped after a step, then started again
    run_pretrain(monkeypatch, data, tmp_path / "twice", "--steps", "1")
    run_pretrain(monkeypatch, data, tmp_path / "twice", "--steps", "2")
    once, twice = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("once", "twice")
    )
    assert once["step"] == twice["step"] == 2
    for key, value in once["model"].items():
        torch.testing.assert_close(value, twice["model"][key])
    assert (tmp_path / "twice" / "clip.safetensors").read_bytes() == file.read_bytes()

    for weight in ("0", "0.5"):  # only the token-level term, off by default, trains patch states
        run_pretrain(monkeypatch, data, tmp_path / weight, "--steps", "2", "--token-weight", weight)
        found = torch.load(tmp_path / weight / "checkpoint.pt", weights_only=True)["model"]
        same = torch.equal(found["visual.proj"], once["model"]["visual.proj"])
        assert same == (weight == "0")

    clip_model = load_clip(str(file))
    tokens = clip.tokenize(["a photo of a bug."])
    assert clip_model.token_embedding.weight[tokens[0, :7]].abs().sum(1).gt(0).all()

    monkeypatch.setattr(measure, "EPOCHS", 1)
    paths = ["x", "--weights", str(file), "--archive", str(data / "archive.zip")]
    for seeds in ([], ["1"], ["1", "--choose-on", "base", "--shots", "1"]):
        monkeypatch.setattr(sys, "argv", [*paths, "--datasets", "emoji", "--seeds", *seeds])
        measure.main()
        out = capsys.readouterr().out
        assert "| data set" in out and "a silhouette of a {}." in out
        assert ("base tuned" in out) == bool(seeds)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    run_pretrain(monkeypatch, data, tmp_path / "run", "--steps", "1")
    kept = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit, match="not finite at step 2"):
        run_pretrain(monkeypatch, data, tmp_path / "run", "--steps", "3", "--token-weight", "nan")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == kept
