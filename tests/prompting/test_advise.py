"""`promptedclip advise` on drawings with the embedded CLIP: the advice and its files.

It is long because all of it needs the same drawings, short fits and output.
"""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY, Datum
from PIL import Image

import datasets  # noqa: F401 (registers them)
from benchmark.records import value_of
from datasets import contents
from datasets.image_folder import ImageFolder, table_items
from trainers.prompting import UserError, load_run
from trainers.prompting.advice import encode as encoding
from trainers.prompting.advice import fits
from trainers.prompting.advice import images as sources
from trainers.prompting.backbones import cached, openai
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.images import tables
from trainers.prompting.method import METHODS
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.storage.features import read_features
from trainers.prompting.use.commands import main

CLASSES = ["animal bird", "drink", "face concerned", "heart", "person"]
ADVISE = ["--backbones", "emoji", "--batch-size", "100"]


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Shorten the fits, whose numbers are not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fits.SETTINGS, "LPPlusPlus", {"SEARCH_HP": False, "TRAIN_EPOCH": 20})
        patch.setattr(fits, "EPOCHS", 20)
        yield


@pytest.fixture(scope="module")
def drawings():
    """Return paths of emoji by class."""
    _, parts = DATASET_REGISTRY.get("Emoji").look("")
    found = {name: [] for name in CLASSES}
    for item in (item for part in parts for item in part):
        if item.classname in found:
            found[item.classname].append(item.impath)
    return found


def fill(folder, drawings, numbers, start=0):
    """Copy drawings into class folders, so many of each class."""
    for name, number in numbers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, path in enumerate(drawings[name][start : start + number], start):
            shutil.copy(path, folder / name / f"{name} {i}.webp")
    return folder


def log_of(folder):
    return max(folder.glob("log.txt*"), key=lambda path: path.name).read_text().splitlines()


@pytest.fixture(scope="module")
def advised(tmp_path_factory, drawings):
    """Return images and the output of the command."""
    root = fill(tmp_path_factory.mktemp("images"), drawings, dict.fromkeys(CLASSES, 8))
    (root / "heart" / "9.webp").write_bytes((root / "heart").iterdir().__next__().read_bytes())
    shutil.copy(drawings["drink"][8], root / "heart" / "wrong.webp")
    out = root.parent / "out"
    assert main(["advise", str(root), "--output", str(out), *ADVISE]) == 0
    return root, out


def test_the_advice_ends_the_log_and_is_a_run(advised, capsys):
    root, out = advised
    record, log = json.loads((out / "results.json").read_text()), log_of(out)
    assert any(line.startswith("Take ") and " on emoji: right on " in line for line in log[-8:])
    assert log[-1] == f"Classify images: `promptedclip predict --model-dir {out} IMAGE ...`"
    assert any(line.endswith("count once; 0 images are in two classes") for line in log)
    assert record["evaluated_on"] == record["split"] == "folds" and record["num_test"] == 40
    arrays, run = read_predictions(out), load_run(out)
    right = (arrays["prediction"] == arrays["label"]).mean()
    assert record["accuracy"] == pytest.approx(100 * right)
    assert run.method == record["trainer"] and run.classnames == CLASSES
    expected = {"train_steps": 0, "seed": 0, "backbone": "emoji", "num_classes": 5}
    assert {key: record[key] for key in expected} == expected and record["train_seconds"] > 0
    assert run.settings["DATASET.ROOT"] == value_of(record, "DATASET.ROOT") == str(root)
    assert run.settings[METHODS[run.method].place("SEARCH_HP")] is False  # takes labels
    found = read_features(out / "features" / "emoji.safetensors")
    paths = dict(digests(root, "paths"))
    images = torch.stack([run.preprocess(run.read(paths[digest])) for digest in found.images])
    torch.testing.assert_close(run.model.clip_features(images), found.image, rtol=1e-4, atol=1e-4)
    space = fits.Space("", found.image, found.text[encoding.TEMPLATE], found.logit_scale)
    once = dict(digests(root, "labels"))
    rows, labels = [found.images.index(x) for x in once], torch.tensor([*once.values()])
    fitted = space.fit(run.method, rows, labels, ALPHA=run.settings["TRAINER.GDA.ALPHA"])
    with torch.no_grad():
        assert (run.model(images) - fitted(run.model.clip_features(images))).abs().max() == 0
    evaluated = SimpleNamespace(keys=contents.read_keys([[Datum(path) for path in paths.values()]]))
    evaluated.test = [Datum(path) for path in paths.values()]
    with pytest.raises(UserError, match="40 of the 40 test images are training images"):
        Saved.read(out / "gda" / "model.pth.tar-0").check_unseen(evaluated, "test")


def test_large_logits_are_compared_with_the_largest(advised, tmp_path, capsys):
    """Those of GDA are some 1e5."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    _, out = advised
    assert load_run(out).method == "GDA"
    file = tmp_path / "a.onnx"
    assert main(["export", "--model-dir", str(out), "--output", str(file)]) == 0
    assert "equal to the model's within" in capsys.readouterr().out and file.stat().st_size


def test_every_label_has_its_answer_the_least_likely_first(advised):
    root, out = advised
    with open(out / "answers.csv", encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "label", "answer", "probability", *CLASSES] and len(rows) == 40
    assert "heart/wrong.webp" in [row[0] for row in rows[:12]]
    own = []
    for path, label, answer, *numbers in rows:
        assert (root / path).is_file() and path.partition("/")[0] == label
        probability, *each = map(float, numbers)
        own.append(probability)
        assert probability == each[CLASSES.index(label)] and sum(each) == pytest.approx(1, abs=0.01)
        assert CLASSES[np.argmax(each)] == answer
    assert own == sorted(own)
    arrays = read_predictions(out)
    right = sum(label == answer for _, label, answer, *_ in rows)
    assert right == (arrays["prediction"] == arrays["label"]).sum()


def test_answers_with_a_chosen_error(advised, drawings, capsys):
    root, out = advised
    run = load_run(out)
    assert len(run.calibration.scores) == len(run.calibration.likeness) == 40
    record = json.loads((out / "results.json").read_text())
    assert record["temperature"] == run.calibration.temperature
    assert record["lac_scores"] == pytest.approx(run.calibration.scores.tolist(), abs=1e-6)
    known = [path for name in CLASSES for path in drawings[name][:8]]
    images = torch.stack([run.preprocess(run.read(path)) for path in known])
    answers = run.classify(images, error=0.1)
    right = [CLASSES[i // 8] in answer.classes for i, answer in enumerate(answers)]
    assert sum(right) >= 0.8 * len(right)
    strange = root.parent / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(strange)
    assert main(["predict", "--model-dir", str(out), str(strange), "--error", "0.1"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{strange}: none of these (likeness ")
    assert "About 10% of images like the 40 that calibrated this run" in told.err


def test_the_commands_that_are_printed(advised):
    _, out = advised
    page, line = (out / "advice.html").read_text(), log_of(out)[-2]
    words = shlex.split(line.split("`")[1])
    assert line.startswith("Train prompts inside CLIP instead, with half of the labelled images; ")
    assert words[2:4] == ["--root", str(out / "train.csv")]
    for command in (line.split("`")[1], f"promptedclip predict --model-dir {out} IMAGE ..."):
        assert f"<code>{command}</code>" in page
    items = table_items(out / "train.csv")
    parts = ImageFolder.divide(out, items)
    assert len(items) == 40 and all({item.classname for item in x} == {*CLASSES} for x in parts)
    keys = contents.read_keys(parts)
    contents.check_apart(out, parts, keys, published=False)  # copies are together


@pytest.fixture(scope="module")
def repeated(advised, tmp_path_factory):
    """Repeat the call in a copy of its output, with files of others, and return the folder.

    GDA has another weight.
    """
    root, out = advised[0], tmp_path_factory.mktemp("repeated") / "out"
    shutil.copytree(advised[1], out)
    for name in (*OTHERS, HALF):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "load_clip", None)  # nothing is encoded again
        patch.setitem(fits.COMPARED, "GDA", [{"ALPHA": 7.0}])
        assert main(["advise", str(root), "--output", str(out), *ADVISE]) == 0
    return out


OTHERS = "mine/model.pth.tar-1", "notes.tmp", "mine/a.tmp"
HALF = "advice.html.a.host.17.tmp"  # of a call that was killed


def test_a_repeated_call_removes_only_what_is_its_own_and_takes_the_weight_that_won(
    repeated, tmp_path
):
    assert all((repeated / name).exists() for name in OTHERS) and not (repeated / HALF).exists()
    alone = shutil.ignore_patterns("mine")  # or there would be two models
    run = load_run(shutil.copytree(repeated, tmp_path / "copy", ignore=alone))
    assert run.settings["TRAINER.GDA.ALPHA"] == 7 and float(run.model.alpha) == 7


def test_the_page_ends_with_what_to_do(repeated):
    text = (repeated / "advice.html").read_text()
    parts = re.findall('<h2(?: id="\\w+")?>(.*?)</h2>', text)
    assert parts[-1] == "What to do next" and "Wilson" not in text
    assert parts.index("Classes taken for each other") < parts.index("Least likely labels")
    assert text.index("zero-shot, it knows only") < text.index("<h2")  # a word, where it begins
    last = text.partition('<h2 id="next">')[2]
    assert "move the image to the folder of its class" in text and 'href="#labels"' in last
    assert re.search("Of 100 .*, about \\d+ get a wrong class: enough to ", last)
    assert "Add images, first of these classes: " in last and "promptedclip predict" in last


def digests(root, other):
    collection = sources.read_collection(root)
    return zip(collection.digests, getattr(collection, other), strict=True)


def test_a_second_call_encodes_only_what_is_new(advised, drawings, tmp_path, capsys):
    root, out = (shutil.copytree(x, tmp_path / x.name) for x in advised)
    fill(root, drawings, {"drink": 3}, start=9)
    (root / "arrow").mkdir()  # without images: CLAP
    words = ["--backbones", "nope emoji", "--batch-size", "1"]
    assert main(["advise", str(root), "--output", str(out), *words]) == 0
    assert "emoji: 3 images in about" in capsys.readouterr().out
    assert any(line.startswith("Left out: nope: No backbone") for line in log_of(out))
    assert json.loads((out / "results.json").read_text())["num_test"] == 43
    run = load_run(out)
    assert len([*out.glob("*/model*")]) == 1 and run.method == "CLAP" and "arrow" in run.classnames


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = tmp_path / "a.csv"
    for name in "abc":
        (tmp_path / name).touch()
    labels = ["=1+1", "a, b", "a\u00e9"]
    tables.write_table(table, ["path", "label"], zip("bac", labels, strict=True))
    lines = ["path,label", "b,=1+1", 'a,"a, b"', "c,a\u00e9", ""]
    assert table.read_bytes() == b"\xef\xbb\xbf" + "\n".join(lines).encode()
    assert [row.label for row in tables.read_images(table)] == labels


def test_a_killed_call_goes_on(drawings, tmp_path, monkeypatch):
    root = fill(tmp_path / "images", drawings, dict.fromkeys(CLASSES[:2], 6))
    words = ["advise", str(root), "--output", str(tmp_path / "out"), "--backbones", "emoji"]
    read, tried, number = encoding.read_single, [], count(1)

    def dying(path):
        tried.append(path)
        if next(number) == 9:  # once, also between two threads
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(encoding, "PART", 4)
    monkeypatch.setattr(encoding, "read_single", dying)
    assert main([*words, "--batch-size", "4"]) == 130
    assert main([*words, "--batch-size", "4"]) == 0 and 9 < len(tried) < 9 + 12


def test_features_that_cannot_be_written_are_one_sentence(advised, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["advise", str(advised[0]), "--output", str(out), "--backbones"]
    assert main([*words, "nope"]) == 2  # the output is that of a call now
    (out / "features" / "emoji.safetensors").mkdir(parents=True)
    capsys.readouterr()
    assert main([*words, "emoji"]) == 1
    assert "emoji.safetensors' cannot be written or read (Is a d" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_and_the_next_call_goes_on(advised, small_disk, capsys):
    root, _ = advised
    disk = small_disk(44)  # KiB: enough for the features, not for the checkpoint
    words = ["advise", str(root), "--output", str(disk / "out"), *ADVISE]
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"promptedclip advise: '{disk / 'out'}' cannot be written or read (No space left on "
        "device): free some disk space, then rerun\n"
    )
    assert not [*disk.rglob("*.tmp")] and not (disk / "out" / "results.json").exists()
    (disk / "ballast").unlink()
    assert main(words) == 0
    assert " images in about " not in capsys.readouterr().out  # their features are kept


def test_other_classes_need_only_their_text(advised, tmp_path):
    shutil.copytree(advised[1] / "features", tmp_path / "features")
    known = sources.read_collection(advised[0])
    collection = replace(known, classnames=[*"abcde"], paths=["gone"] * len(known.paths))
    words = collection, tmp_path / "features", torch.device("cpu"), 8, 0.0
    before = read_features(tmp_path / "features" / "emoji.safetensors")
    one = encoding.encode("emoji", *words)
    kept = read_features(one.file)
    assert not torch.equal(one.text, before.text[encoding.TEMPLATE])
    assert kept.classnames == [*"abcde"] and len(kept.images) == len(one.rows) == 40
    assert torch.equal(one.text, kept.text[encoding.TEMPLATE])


def test_clips_in_the_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(openai, "CACHE", str(tmp_path))
    monkeypatch.setattr(cached, "find_spec", lambda name: None)
    monkeypatch.setattr(cached, "_on_the_hub", lambda: [("same/one", [tmp_path / "RN50.pt"])])
    for name, size in (("RN50", 3), ("ViT-B-32", 5)):
        (tmp_path / f"{name}.pt").write_bytes(b"x" * size)
    assert list(cached.cached_clips().items()) == [("ViT-B/32", 5), ("RN50", 3)]


def test_what_shares_a_fold():
    names = ["a/IMG_1.png", "a/IMG_2.png", "b/film1_01.png", "b/film1_02.png", "b/film2_01.png"]
    names += ["b/1f622.png", "b/x.png", "b/y.png", "b/z.png"]
    groups = ["", "", "", "", "", "", "p", "p", ""]
    digests = [*"abcdefgha"]
    collection = sources.Collection(Path(), [], names, np.zeros(9), groups, digests)
    assert collection.folds_apart().tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 0]


def test_parts_are_joined_and_a_test_may_be_left_out(drawings, tmp_path):
    for part, number in (("train", 3), ("test", 2)):
        fill(tmp_path / part, drawings, dict.fromkeys(CLASSES[:2], number))
    (tmp_path / "train" / "empty").mkdir()
    assert len(sources.read_collection(tmp_path).paths) == 10
    apart = sources.read_collection(tmp_path, keep_test=True)
    assert len(apart.paths) == 6 and apart.classnames == [*CLASSES[:2], "empty"]


def test_the_level_of_the_classes_and_an_empty_one(drawings, tmp_path, capsys):
    for year in ("2021", "2022"):
        fill(tmp_path / year, drawings, dict.fromkeys(CLASSES[:2], 2), start=int(year) % 2020 * 2)
    (tmp_path / "2022" / "empty").mkdir()
    (tmp_path / "2022" / "gone").mkdir()
    (tmp_path / "2022" / "gone" / "a.gif").touch()
    with pytest.raises(UserError, match="with --classes-at 1 .'2021'. or 2 .'animal bird'; in a"):
        sources.read_collection(tmp_path)
    one = sources.read_collection(tmp_path, classes_at=2)
    assert one.classnames == [*CLASSES[:2], "empty", "gone"] and len(one.paths) == 8
    said = f"Note: class folders of '{tmp_path}' have no images that are read: empty, gone\n"
    assert said in capsys.readouterr().out
    no_image = "the class has no image that is read"
    assert one.left_out == [
        ("2022/gone/a.gif", "its format is not read"), ("empty", no_image), ("gone", no_image)
    ]  # fmt: skip
    assert sources.read_collection(tmp_path, classes_at=1).classnames == ["2021", "2022"]


def test_images_that_cannot_be_read_are_left_out(drawings, tmp_path, capsys):
    root = fill(tmp_path / "images", drawings, dict.fromkeys(CLASSES[:2], 6))
    folder = root / CLASSES[0]
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"no image")
    Image.new("CMYK", (8, 8)).save(folder / "c.jpg")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "d.png")
    (folder / "e.png").symlink_to("nowhere")
    (folder / "f.gif").touch()
    Image.new("RGB", (8, 8)).save(root / "loose.png")
    assert main(["advise", str(root), "--output", str(tmp_path / "out"), *ADVISE]) == 1
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "advice.html").read_text().partition("<h2>Left out</h2>")[2]
    assert "Left out: 4 of 17 images, which cannot be read\n" in said
    assert "<details><summary>6 images and why</summary>" in page
    for line in ("a.png: it is empty", "b.png: ", "d.png: it has 16 bits",
                 "e.png: it cannot be opened", "f.gif: its format is not read"):  # fmt: skip
        assert f"  {CLASSES[0]}/{line}" in said and f"<li>{CLASSES[0]}/{line}" in page
    assert "<li>loose.png: it is in no class folder</li>" in page
    assert "  loose.png" not in said and "1 images in" in said  # a phone has thousands
    assert "13 images of 2 classes" in said


def test_a_class_whose_images_all_failed_to_decode_has_no_labels(drawings, tmp_path, capsys):
    root = fill(tmp_path / "images", drawings, dict.fromkeys(CLASSES[:3], 6))
    (root / "gone").mkdir()
    for i in range(3):
        (root / "gone" / f"{i}.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["advise", str(root), "--output", str(out), *ADVISE]) == 1
    said = capsys.readouterr().out
    assert "'gone' has no other image, and so no label\n" in said and "  gone/0.png: " in said
    run = load_run(out)
    if run.method == "CLAP":
        assert "gone" in run.classnames and "1 class has no label, so nothing is" in said
    else:
        assert "gone" not in run.classnames and "Without labels, and so never answered: g" in said
        assert "of these classes: gone (0 labels)" in (out / "advice.html").read_text()
        answers = (out / "answers.csv").read_text().splitlines()[0]
        assert answers.endswith(",".join(CLASSES[:3]))


PAIR = {"drink": 2, "heart": 2}
REFUSED = {
    "nowhere": ("is no folder and no table", {}, []),
    "one class": ("has 1 class, 'drink', but at least two", {"drink": 4}, []),
    "no image": ("has no images in class folders: put some into", {}, ["mkdir"]),
    "one label": ("The 1 labelled images are of one group", {"drink": 1, "heart": 0}, []),
    "no CLIP": ("no CLIP is left: nope: No backbone", PAIR, ["--backbones", "nope"]),
    "inside": ("where it would be a class", PAIR, ["out"]),
    "none here": ("no CLIP is on this machine: `python -c", PAIR, ["here"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(drawings, tmp_path, capsys, monkeypatch, case):
    why, numbers, more = REFUSED[case]
    root = tmp_path / "images"
    if numbers or more:
        root.mkdir()
    fill(root, drawings, numbers)
    monkeypatch.setattr("trainers.prompting.backbones.cached.cached_clips", dict)
    words = [] if more == ["here"] else more if more[:1] == ["--backbones"] else ADVISE
    out = root / "out" if case == "inside" else tmp_path / "out"
    assert main(["advise", str(root), "--output", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert any(part in said for part in why.split("|")) and said.count("\n") == 1, said
