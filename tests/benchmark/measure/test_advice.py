"""`python -m benchmark measure advice`: the tables, on small files of features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paths import ROOT
from safetensors.torch import load_file, save_file

from benchmark.measure import advice
from trainers.prompting import UserError
from trainers.prompting.storage.features import write_features

K, EACH, D = 3, 13, 8


def write(path, noise, labels=None):
    random = torch.Generator().manual_seed(0)
    text = torch.randn(K, D, generator=random)
    y = torch.arange(K).repeat(EACH) if labels is None else labels
    image = text[y] + noise * torch.randn(len(y), D, generator=random)
    split = {"train": list(range(len(y))), "val": [], "test": []}
    header = {"classnames": ["a", "b", "c"], "split": split, "logit_scale": 20.0}
    header |= {"normalised": False, "template": "a photo of a {}.", "clip": "mine"}
    write_features(path, {"image": image, "label": y, "text/a photo of a {}.": text}, header)


def test_published_files(tmp_path, capsys):
    write(tmp_path / "a.safetensors", 1.0)
    tensors = load_file(tmp_path / "a.safetensors")
    tensors["image_features"] = tensors.pop("image").half()
    tensors |= {
        "text/average": tensors.pop("text/a photo of a {}."),
        "logit_scale": torch.tensor([20.0]),
    }
    save_file(tensors, tmp_path / "b.safetensors")
    save_file({"texts": torch.ones(2, K, D)}, tmp_path / "c.safetensors")
    (one, other), y = advice.read_spaces(tmp_path)
    assert "c.safetensors' has only sentences" in capsys.readouterr().out
    assert other.name == "b" and other.scale == one.scale and len(y) == K * EACH
    torch.testing.assert_close(other.images, one.images, rtol=1e-3, atol=1e-3)
    assert other.text.norm(dim=1).tolist() == pytest.approx([10.0] * K)
    torch.testing.assert_close(F.normalize(other.text, dim=-1), F.normalize(one.text, dim=-1))


def test_the_hard_collection():
    """With 2,300 labels GDA as published is right on 14%, and the choice on 59%."""
    spaces, y = advice.read_spaces(ROOT / "assets" / "grocery_emoji.safetensors")
    assert [space.name for space in spaces] == ["grocery_emoji"] and len(y) == 2936
    draw = advice.Draw(spaces, y, np.random.default_rng(0).permutation(len(y))[:2300])
    choice = advice.choose(spaces, draw.given)
    one, *_ = (c for c in choice.candidates if c.settings == {"ALPHA": 1.0})
    assert draw.accuracy(draw.logits(one)) < 25 < 50 < draw.accuracy(draw.logits(choice.best))


@pytest.mark.slow
def test_what_is_said_of_the_hard_collection_is_true(capsys):
    file = ROOT / "assets" / "grocery_emoji.safetensors"
    advice.main([str(file), "--draws", "2", "--parts", "balanced sets strangers"])
    out = capsys.readouterr().out
    accuracy, _ = lines(out.partition("\n| sets")[0])
    sets, _ = lines("\n" + out.partition("\n| sets")[2].partition("\n| strangers")[0])
    strange, _ = lines("\n" + out.partition("\n| strangers")[2])
    for m in ("4 a class", "8 a class", "16 a class"):
        said, true = (float(accuracy[x + ", all CLIPs"][m]) for x in ("'about'", "true"))
        assert said < true + 2 and float(accuracy["'at least' held, all CLIPs"][m]) == 1
        for error in (0.05, 0.1, 0.2):
            assert float(sets[f"lacking their class, {error}"][m]) < 100 * error + 2
            of_strangers = (float(strange[f"{x}, {error}"][m]) for x in ("said", "true"))
            assert abs(np.subtract(*of_strangers)) < 10


def lines(text):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: dict(zip(rows[1], row, strict=True)) for row in rows[3:]}, rows[1]


def test_the_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(advice, "LABELS", (2, 16, 16, 4))
    monkeypatch.setattr(advice, "OTHERS", {"TipAdapter": advice.OTHERS["TipAdapter"][:1]})
    write(tmp_path / "good.safetensors", 0.3)
    write(tmp_path / "poor.safetensors", 2.0)
    advice.main([str(tmp_path), "--draws", "1", "--parts", "balanced wrong sets"])
    first, second = capsys.readouterr().out.split("\n| wrong")
    table, head = lines(first)
    assert first.startswith("39 rows, 3 classes: good, poor\n")
    assert head == ["balanced, 1 draws", "2 a class", "4 a class"]
    assert float(table["accuracy of the choice"]["4 a class"]) > 90
    assert float(table["regret"]["2 a class"]) < 10
    assert float(table["'at least' held, each CLIP"]["4 a class"]) == 1
    assert "named of the swapped, swapped at random" in second
    table, _ = lines("\n" + second.partition("\n| sets")[2])
    assert float(table["lacking their class, 0.05"]["4 a class"]) < 20


@pytest.mark.parametrize("other", [None, torch.zeros(39, dtype=torch.long)])
def test_folders_that_are_refused(tmp_path, other):
    message = "no file of features"
    if other is not None:
        write(tmp_path / "a.safetensors", 1.0)
        write(tmp_path / "b.safetensors", 1.0, other)
        message = "b.safetensors' has other rows: move it away"
    with pytest.raises(UserError, match=message):
        advice.main([str(tmp_path)])
