"""The public data sets, read from small trees in their original layouts."""

import json
import os
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from dassl.utils import read_image
from own_images import counts, registered
from public_layouts import (
    NAMES,
    OFFICIAL,
    RAW,
    SHIFTED,
    dtd,
    fgvc_aircraft,
    imagenet,
    imagenetv2,
    jpegs,
    labels,
    load,
    oxford_flowers,
    stanford_cars,
)

from benchmark.protocols.configs import GROUPS
from trainers.prompting import UserError


@pytest.fixture(params=RAW + OFFICIAL, ids=lambda builder: builder.__name__)
def tree(request, tmp_path):
    """A data set's name and root, with its class names and counts as `facts`."""
    return SimpleNamespace(
        name=request.param.__name__, root=tmp_path, facts=request.param(tmp_path)
    )


def test_every_set_is_tested_and_has_its_config():
    assert {builder.__name__ for builder in RAW + OFFICIAL} == set(NAMES)
    assert {name: registered(name) for name in NAMES} == NAMES


def test_names_labels_and_counts_from_the_raw_files(tree):
    names, sizes = tree.facts
    dataset = load(tree.name, tree.root)
    assert dataset.classnames == names
    assert counts(dataset) == sizes
    for items in (dataset.train_x, dataset.val, dataset.test):
        assert {item.classname for item in items} <= set(names)
        assert all(item.classname == names[item.label] for item in items)
    assert {item.label for item in dataset.test} == set(range(len(names)))
    assert read_image(dataset.test[-1].impath).size == (8, 8)
    if tree.name not in [builder.__name__ for builder in [imagenet, *SHIFTED]]:
        paths = [x.impath for part in (dataset.train_x, dataset.val, dataset.test) for x in part]
        assert len(set(paths)) == len(paths)


def test_annotations_are_joined_with_the_right_images(tmp_path):
    for builder in (stanford_cars, oxford_flowers, fgvc_aircraft):
        builder(tmp_path)
    assert labels(load("stanford_cars", tmp_path).test) == {
        "00001.jpg": 2, "00002.jpg": 1, "00003.jpg": 0
    }  # fmt: skip
    flowers = labels(load("oxford_flowers", tmp_path).test)
    assert all(label == (int(name[6:11]) - 1) % 3 for name, label in flowers.items())
    planes = labels(load("fgvc_aircraft", tmp_path).val)
    assert all(label == int(name[-5]) for name, label in planes.items())


@pytest.mark.parametrize("builder", RAW)
def test_a_split_made_here_is_kept_and_reported(builder, tmp_path, capsys):
    builder(tmp_path)
    random.seed(5)
    state = random.getstate()
    first = load(builder.__name__, tmp_path)
    assert random.getstate() == state
    (file,) = tmp_path.glob("*/split_zhou_*.json")
    assert file.name == f"split_zhou_{NAMES[builder.__name__]}.json"
    said = capsys.readouterr().out
    assert f"'{file}' was missing" in said and "are not comparable with published ones" in said
    split = json.loads(file.read_text())
    assert not any(row[0].startswith("/") for rows in split.values() for row in rows)
    moved = tmp_path / "moved"
    moved.mkdir()
    file.parent.rename(moved / file.parent.name)
    again = load(builder.__name__, moved)
    assert labels(again.train_x) == labels(first.train_x)
    assert labels(again.val) == labels(first.val)
    assert "made here at random" in capsys.readouterr().out


def test_a_read_only_folder_does_not_stop_a_run(tmp_path, monkeypatch, capsys):
    dtd(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    first = load("dtd", tmp_path)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").unlink()
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    capsys.readouterr()
    assert labels(load("dtd", tmp_path).train_x) == labels(first.train_x)
    assert "cannot be written (Permission denied)" in capsys.readouterr().out
    assert os.listdir(tmp_path / "dtd") == ["images"]


def test_the_published_split_takes_precedence_over_raw_files(tmp_path, capsys):
    dtd(tmp_path)
    own = load("dtd", tmp_path)
    (file,) = tmp_path.glob("*/split_zhou_*.json")
    split = json.loads(file.read_text())
    published = {"train": split["test"], "val": [], "test": split["train"][:3]}
    file.write_text(json.dumps(published))
    capsys.readouterr()
    dataset = load("dtd", tmp_path)
    assert labels(dataset.train_x) == labels(own.test)
    assert counts(dataset)[1:] == (0, 3)
    assert "at random" not in capsys.readouterr().out


# ---- ImageNet and its shifted domains


def test_shots_are_taken_only_from_training_images(tmp_path):
    imagenet(tmp_path)
    dataset = load("imagenet", tmp_path, shots=2)
    assert counts(dataset) == (24, 60, 60)
    assert labels(dataset.val) == labels(dataset.test)
    assert labels(load("imagenet", tmp_path, shots=2).train_x) == labels(dataset.train_x)
    assert labels(load("imagenet", tmp_path, shots=2, seed=2).train_x) != labels(dataset.train_x)


def test_validation_images_are_held_out_of_the_training_images(tmp_path):
    imagenet(tmp_path)
    usual = load("imagenet", tmp_path, shots=2)
    assert usual.validation == []
    whole = labels(load("imagenet", tmp_path).train_x)
    for most, each in ((-1, 2), (1, 1), (4, 2)):  # no more than shots
        after = load("imagenet", tmp_path, shots=2, VALIDATION_SHOTS=most)
        drawn = labels(after.validation)
        assert labels(after.train_x) == labels(usual.train_x) and counts(after)[2] == 60
        assert drawn == labels(after.val) and Counter(drawn.values()) == dict.fromkeys(
            range(12), each
        )
        assert drawn.items() <= whole.items() and not drawn.keys() & labels(after.train_x).keys()
    for subset in ("base", "new"):
        half = load("imagenet", tmp_path, 2, subset, VALIDATION_SHOTS=4)
        assert labels(half.validation) == {name: y for name, y in drawn.items() if y < 6}
    other = load("imagenet", tmp_path, 2, seed=2, VALIDATION_SHOTS=4)
    assert labels(other.validation) != drawn
    for shots in (6, -1):
        with pytest.raises(UserError, match="the class 'animal 0' has none left: take fewer"):
            load("imagenet", tmp_path, shots, VALIDATION_SHOTS=4)


@pytest.mark.parametrize("most, each", [(0, 4), (-1, 5), (2, 2), (9, 5)])
def test_validation_images_of_each_class(most, each, tmp_path):
    names = [f"{kind}/{i}.jpg" for kind in ("a", "b") for i in range(18)]
    jpegs(tmp_path / "eurosat" / "2750", *names)
    split = {
        part: [[name, i // 18, "ab"[i // 18]] for i, name in enumerate(names) if i % 3 == rest]
        for rest, part in enumerate(("train", "val", "test"))
    }
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    usual, dataset = (load("eurosat", tmp_path, 5, **keys)
                      for keys in ({}, {"VALIDATION_SHOTS": most}))  # fmt: skip
    assert list(map(vars, dataset.train_x)) == list(map(vars, usual.train_x))
    assert len(dataset.val) == len(dataset.validation) == 2 * each
    assert {item.impath for item in dataset.val} == {item.impath for item in dataset.validation}


@pytest.mark.parametrize("builder", SHIFTED)
def test_a_shifted_domain_is_whole_for_any_shots(builder, tmp_path):
    _, sizes = builder(tmp_path)
    dataset = load(builder.__name__, tmp_path, shots=1, VALIDATION_SHOTS=4)
    assert counts(dataset) == sizes and not dataset.train_u and not dataset.validation


def test_v2_folders_are_numbers(tmp_path):
    imagenetv2(tmp_path)
    dataset = load("imagenetv2", tmp_path)
    assert all(name.startswith(f"{label}_") for name, label in labels(dataset.test).items())
    assert dataset.lab2cname[10] == "animal 10"


# ---- BiomedCoOp's eleven data sets

# not in alphabetical order, with names that have spaces and brackets, as the public files have
CLASSES = ["glioma tumor", "meningioma tumor", "pituitary tumor", "normal brain"]


def write_medical(root, name):
    """Write a data set of four classes, one image each for every part; return its split."""
    split = {part: [] for part in ("train", "val", "test")}
    for label, title in enumerate(CLASSES):
        for part, rows in split.items():
            rows.append([f"{title.replace(' ', '_')}/{part} (1).tif", label, title])
    jpegs(root / name / name, *(row[0] for rows in split.values() for row in rows))
    (root / name / f"split_{name}.json").write_text(json.dumps(split))
    return split


@pytest.mark.parametrize("config", GROUPS["medical"])
def test_names_and_labels_are_those_of_the_split_file(config, tmp_path, capsys):
    write_medical(tmp_path, registered(config))
    dataset = load(config, tmp_path)
    assert dataset.classnames == CLASSES and counts(dataset) == (4, 4, 4)
    assert [item.label for item in dataset.test] == [0, 1, 2, 3]
    assert not dataset.as_published and " as published" in capsys.readouterr().out
    assert load(config, tmp_path, subset="new").classnames == CLASSES[2:]
