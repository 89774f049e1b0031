"""Split files, few-shot sampling, base and new classes, and messages about broken data."""

import json
import random
from collections import Counter
from functools import partial

import pytest
from own_images import read
from paths import GOLDEN

from datasets.base import ImageDataset
from trainers.prompting import UserError

PROTOCOL = json.loads((GOLDEN / "protocol.json").read_text())


class Small(ImageDataset):
    dataset_dir = "small"
    split_file = "split.json"


small = partial(read, Small)


def write(root, split, missing=()):
    """Write a data set's folder, with an (empty) image for each path that is not in `missing`."""
    for rows in split.values():
        for name, _, _ in rows:
            path = root / "small" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in missing:
                path.touch()
    (root / "small" / "split.json").write_text(json.dumps(split, ensure_ascii=False), "utf8")


@pytest.fixture(scope="module")
def protocol_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("protocol")
    write(root, PROTOCOL["split"])
    return root


def paths(root, items):
    images = root / "small" / "images"
    return [item.impath.removeprefix(f"{images}/") for item in items]


@pytest.mark.parametrize("run", PROTOCOL["picks"])
def test_few_shot_picks_are_the_published_ones(protocol_root, run):
    seed, shots = (int(part.lstrip("sedhot")) for part in run.split("-"))
    random.seed(99)  # earlier random numbers do not matter
    dataset = small(protocol_root, shots, seed=seed)
    assert paths(protocol_root, dataset.train_x) == PROTOCOL["picks"][run]["train"]
    assert paths(protocol_root, dataset.val) == PROTOCOL["picks"][run]["val"]
    assert len(dataset.test) == len(PROTOCOL["split"]["test"])


@pytest.mark.parametrize("subset", ["base", "new"])
def test_base_and_new_are_relabelled_halves(protocol_root, subset):
    expected = PROTOCOL["subsample"][subset]
    per_class = [label for _, label, _ in expected["train"]]
    shots = max(map(per_class.count, per_class))
    dataset = small(protocol_root, shots, subset)
    rows = [
        [path, item.label, item.classname]
        for path, item in zip(paths(protocol_root, dataset.train_x), dataset.train_x, strict=True)
    ]
    assert rows == expected["train"]
    assert dataset.classnames == expected["classnames"]
    assert (len(dataset.val), len(dataset.test)) == (expected["n_val"], expected["n_test"])


@pytest.mark.parametrize("subset", ["all", "base", "new"])
def test_the_other_half_and_the_validation_images_of_base_classes(protocol_root, subset):
    """A run on new classes has the validation images and labels of a run on base classes."""
    dataset = small(protocol_root, 2, subset)
    base, new = (PROTOCOL["subsample"][half]["classnames"] for half in ("base", "new"))
    assert dataset.other_classnames == {"all": [], "base": new, "new": base}[subset]
    every = small(protocol_root, -1, "all").train_x
    assert [item.impath for item in dataset.train_u] == [item.impath for item in every]
    like = small(protocol_root, 2, "all" if subset == "all" else "base")
    found, expected = (
        sorted((item.impath, item.label, item.classname) for item in items)
        for items in (dataset.validation, like.val)
    )
    assert found == expected and len(found) > 1


def test_validation_images_are_few_the_same_and_not_those_of_the_test(protocol_root):
    whole, again = small(protocol_root), small(protocol_root)
    paths = [item.impath for item in whole.validation]
    assert paths == [item.impath for item in again.validation] and set(paths) < {
        item.impath for item in whole.val
    }
    assert max(Counter(item.label for item in whole.validation).values()) == 4

    class Tested(Small):
        @classmethod
        def read(cls, folder):
            train, val, _ = super().read(folder)
            return train, val, val

    for subset in ("all", "base", "new"):
        assert read(Tested, protocol_root, subset=subset).validation == []


def test_names_with_spaces_and_other_letters(tmp_path):
    rows = [["crème brûlée/a b.jpg", 0, "crème brûlée"], ["x/y.jpg", 1, "寿司"]]
    write(tmp_path, {"train": rows, "val": [], "test": rows})
    assert small(tmp_path).classnames == ["crème brûlée", "寿司"]


def broken(rows, **changes):
    return {"train": rows, "val": [], "test": rows, **changes}


ROWS = [["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]]


@pytest.mark.parametrize(
    "split, words",
    [
        (broken([["a/1.jpg", 0, "ant"]]), "at least two are needed"),
        (broken([["a/1.jpg", 0, "ant"], ["b/1.jpg", 2, "bee"]]), "label 1 has no training im"),
        (broken([["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, " "]]), "label 1 has no training images"),
        (broken(ROWS, test=[["c/1.jpg", 2, "cat"]]), "label 2 has no training images with a"),
        (broken([*ROWS, ["b/2.jpg", 1, "wasp"]]), "both 'bee' and 'wasp'"),
        (broken([*ROWS, ["b/2.jpg", -1, "wasp"]]), "label -1 has no"),
    ],
)
def test_broken_splits_are_one_sentence(tmp_path, split, words):
    (tmp_path / "small" / "images").mkdir(parents=True)
    write(tmp_path, split)
    with pytest.raises(UserError, match=words) as caught:
        small(tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path):
    write(tmp_path, broken(ROWS), missing=["b/1.jpg"])
    with pytest.raises(UserError, match=r"b/1\.jpg.*2 of 4 images are missing\): restore them"):
        small(tmp_path)


def test_a_split_file_may_start_with_a_mark(tmp_path):
    write(tmp_path, broken(ROWS))
    file = tmp_path / "small" / "split.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert small(tmp_path).classnames == ["ant", "bee"]


def test_other_names_than_in_training_are_reported(tmp_path, capsys):
    swapped = [["b/1.jpg", 0, "bee"], ["a/1.jpg", 1, "ant"], ["a/2.jpg", 0, ""]]
    write(tmp_path, broken(ROWS, val=swapped))
    assert small(tmp_path).classnames == ["ant", "bee"]
    said = capsys.readouterr().out
    assert "gives 2 images" in said and "b/1.jpg', a 'bee' and not 'ant': are the labels" in said


def test_classes_without_test_images_are_reported(tmp_path, capsys):
    write(tmp_path, broken(ROWS, test=ROWS[:1]))
    small(tmp_path)
    assert "has no test images of these classes: bee\n" in capsys.readouterr().out


ROW = '{"train": [[%s]], "val": [], "test": []}'
NO_SPLITS = ["{", "[]", '{"train": []}', ROW % "1"]
NO_SPLITS += [ROW % row for row in ('"a", 0', '"a", "0", "b"', '"a", 0.5, "b"')]


@pytest.mark.parametrize("text", NO_SPLITS)
def test_a_file_that_is_not_a_split_is_named(tmp_path, text):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "split.json").write_text(text)
    with pytest.raises(UserError, match=r"split\.json' is not a split file"):
        small(tmp_path)


def test_a_missing_split_file_is_named(tmp_path):
    (tmp_path / "small").mkdir()
    with pytest.raises(UserError, match=r"no split file '.*split\.json'"):
        small(tmp_path)


def test_an_unknown_half_is_refused(protocol_root):
    with pytest.raises(UserError, match="all, base or new, not 'old'"):
        small(protocol_root, subset="old")


def test_a_half_with_one_class_is_refused(tmp_path):
    write(tmp_path, broken([*ROWS, ["c/1.jpg", 2, "cat"]]))
    with pytest.raises(UserError, match="only the class 'cat'"):
        small(tmp_path, subset="new")


def test_shots_are_drawn_by_any_dassl(protocol_root, monkeypatch, capsys):
    """Dassl 0.6.3 takes these arguments alone; the log says which images it means."""

    def draw(self, *data_sources, num_shots=-1, repeat=False):
        print(f"Creating a {num_shots}-shot dataset")
        return data_sources[0]

    monkeypatch.setattr(Small, "generate_fewshot_dataset", draw)
    small(protocol_root, 16)
    lines = capsys.readouterr().out.splitlines()
    assert "Training: Creating a 16-shot dataset" in lines
    assert "Validation: Creating a 4-shot dataset" in lines
