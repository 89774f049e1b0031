"""`python -m benchmark features`: a file of the tiny CLIP's features, resumed, and bad input."""

import json
import shutil

import pytest
import tiny
import torch
from paths import GOLDEN
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmark.__main__ import main
from benchmark.data import encoding
from trainers.prompting import Method, Teacher, UserError, load_clip
from trainers.prompting.encoders.descriptions import Asked, describe
from trainers.prompting.encoders.sentence_features import encode_sentences
from trainers.prompting.storage.features import read_features
from trainers.prompting.trainer.feature_rows import clip_of

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")


def command(root, output, *more, name="image_folder"):
    words = ["features", name, "--backbone", TINY, "--root", str(root)]
    return main([*words, "--output", str(output), *more])


def test_a_file_of_a_data_set(tmp_path, monkeypatch, capsys):
    root, out = tiny.write_halves(tmp_path / "images"), tmp_path / "out"
    more = ["--views", "2", "--shots", "1 2", "--seeds", "1", "--templates", "a {} from above."]
    assert command(root, out, *more) == 0
    (file,) = out.iterdir()  # no chunk is left
    found = read_features(file)
    assert found.clip == TINY and found.dataset == "ImageFolder" and not found.normalised
    assert [len(found.split[part]) for part in ("train", "val", "test")] == [25, 10, 15]
    assert found.images[0].startswith("annual_crop/") and found.classnames[0] == "annual crop"
    clip_model = load_clip(TINY)
    raw = Teacher(clip_model, found.classnames, ["a photo of a {}."]).raw
    torch.testing.assert_close(found.sentences("a photo of a {}."), raw)
    assert {"itap of a {}.", "a {} from above."} < found.text.keys()
    assert 10 <= found.views.shape[1] <= 15 and set(found.views_of.tolist()) < {*range(25)}
    assert not torch.equal(found.views[0], found.views[1])
    whole = file.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("trainers.prompting.load_clip", None)  # nothing is encoded
        assert command(root, out, *more) == 0
        assert f"'{file}' is complete" in capsys.readouterr().out
        for others, names in ((more[2:], "views"), (["--half"], "templates, precision, views")):
            assert command(root, out, *others) == 2
            assert f"'{file}' exists, with other {names}: " in capsys.readouterr().err
        (root / found.images[found.views_of[0]]).unlink()
        assert command(root, out, *more[:-1], "b {}.") == 2
        assert "exists, with other images or CLIP, templates, vi" in capsys.readouterr().err
        file.write_bytes(whole[:-1])
        assert command(root, out, *more) == 2
        assert "is damaged or of another kind" in capsys.readouterr().err
    assert command(root, out, "--half", "--redo") == 0
    half = read_features(file)
    assert half.image.dtype == torch.float16
    rows = [found.images.index(name) for name in half.images]
    torch.testing.assert_close(half.image.float(), found.image[rows], atol=1e-2, rtol=1e-2)


def test_the_folder_of_a_name(tmp_path, capsys):
    root, out = tiny.write_halves(tmp_path / "mine"), tmp_path / "out"
    assert command(tmp_path, out, name="image_folder=mine") == 0
    assert "is read from" not in capsys.readouterr().out
    assert command(root, out, name="image_folder=yours") == 0
    assert f"Note: image_folder=yours is read from '{root}': no class" in capsys.readouterr().out
    mine, yours = (read_features(path) for path in sorted(out.iterdir()))
    assert mine.made_of == yours.made_of and torch.equal(mine.image, yours.image)
    for part in ("train", "test"):
        shutil.copytree(root, tmp_path / "copies" / part)
    assert command(tmp_path, out, name="image_folder=copies") == 2
    assert "are also in another part" in capsys.readouterr().err


def test_a_killed_command_goes_on(tmp_path, monkeypatch, capsys):
    root, out = tiny.write_halves(tmp_path / "images"), tmp_path / "out"
    Image.new("RGBA", (32, 32)).save(root / "sea" / "0.png")
    monkeypatch.setattr(encoding, "CHUNK", 20)
    seen, encode = [], Method.clip_features

    def dies(self, images):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(Method, "clip_features", dies)
    assert command(root, out) == 130
    assert "Note: 1 of 50 images are transparent" in capsys.readouterr().out
    assert command(root, out) == 0
    assert seen == [20, 20, 10, 10]
    (file,) = out.iterdir()
    assert load_file(file)["image"].shape == (50, 64)


def test_chunks_of_another_clip_are_not_used(tmp_path, monkeypatch):
    root, out = tiny.write_halves(tmp_path / "images"), tmp_path / "out"
    clip, state = tmp_path / "a.safetensors", load_file(TINY)
    with safe_open(TINY, "pt") as file:
        about = file.metadata()
    monkeypatch.setattr(encoding, "CHUNK", 20)

    def stopped(*_):
        raise KeyboardInterrupt

    save_file(state, clip, about)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.prompting.storage.features.write_features", stopped)
        assert command(root, out, "--backbone", str(clip)) == 130
        kept = sorted(out.rglob("plain-*"))
    rows = [load_file(file)["rows"] for file in kept]
    save_file(state | {"visual.proj": -state["visual.proj"]}, clip, about)
    assert command(root, out, "--backbone", str(clip)) == 0
    (file,) = out.glob("*.safetensors")
    image = load_file(file)["image"]
    assert any(torch.allclose(image[:20], -each) for each in rows if len(each) == 20)


def test_sentences_of_a_file_and_a_run_on_their_features(tmp_path, capsys):
    root, out, about = tiny.write_halves(tmp_path / "images"), tmp_path / "out", tmp_path / "a.json"
    about.write_text(json.dumps({"Sea": ["a blue {}", "a wet and wide {}"], "*": ["a dark {}"]}))
    assert command(root, out, "--sentences", str(about)) == 0
    assert "1 of 5 classes by case, 4 by '*'; 1 to 2 for each" in capsys.readouterr().out
    (file,) = out.iterdir()
    found = read_features(file)
    sentences = [f"a dark {name}" for name in found.classnames[:4]]
    sentences += ["a blue sea", "a wet and wide sea"]
    rows, classes = found.sets["a"]
    assert classes.tolist() == [0, 1, 2, 3, 4, 4]
    torch.testing.assert_close(rows, encode_sentences(load_clip(TINY), sentences))
    about.write_text(json.dumps({"*": ["dark"]}))
    assert command(root, out, "--sentences", str(about)) == 2
    assert "exists, with other sentences: " in capsys.readouterr().err
    clip_model = clip_of(found, found.template)
    for rule in ("normalised_mean", "raw_mean"):
        text = describe(Asked("a", rule), found.classnames, clip_model)
        assert text.note == "'a': 5 of 5 classes by name; 1 to 2 for each"
        h = text.features(clip_model).h[0, 4]
        two = rows[4:] / rows[4:].norm(dim=-1, keepdim=True) if rule[0] == "n" else rows[4:]
        torch.testing.assert_close(h, two.mean(0) / two.mean(0).norm())
    with pytest.raises(UserError, match="reads the sentence 'dark', .* has only text features of"):
        describe(Asked(str(about)), found.classnames, clip_model).features(clip_model)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    assert command(tiny.write_halves(tmp_path / "images"), f"{__file__}/x") == 1
    said = capsys.readouterr().err
    assert f"'{__file__}/x' cannot be written or read (Not a directory): a file is where" in said


@pytest.mark.parametrize("words, why", [
    (["nodata"], "There is no data set 'nodata'"),
    (["dtd", "--root", "/nowhere"], "DescribableTextures was looked for in '/nowhere/dtd'"),
    (["dtd", "--templates", "a"], "--templates: 'a' must have one {}, for the class name"),
    (["emoji", "--sentences", "a {}."], "--sentences: 'a {}.' must be a JSON file of a name"),
    (["whurs19", "--backbone", "emoji"], "WHURS19 is read from a file of features"),
    (["emoji", "--backbone", "RN5"], "No backbone and no file is called 'RN5'"),
])  # fmt: skip
def test_bad_input(tmp_path, capsys, words, why):
    tiny_clip = [] if "--backbone" in words else ["--backbone", TINY]
    assert main(["features", *words, *tiny_clip, "--output", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
