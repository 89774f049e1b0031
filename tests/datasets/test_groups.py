"""Attributes of a subclass of Datum, and groups of images that stay in one part."""

import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from dassl.data.datasets import Datum
from own_images import read

from datasets import ImageDataset
from datasets.splits import divide, hold_out

K = 4


class Scan(Datum):
    """An image of a patient."""

    def __init__(self, impath, label, group=None):
        super().__init__(impath, label, 0, f"class {label}")
        self.group = group


class Scans(ImageDataset):
    """Four images of each of 40 patients, of two classes: the lists of `own_parts`."""

    dataset_dir = "scans"

    @classmethod
    def make_split(cls, folder):
        return cls.own_parts(scans(folder))

    @staticmethod
    def own_parts(items):
        return divide(items)


def scans(folder="", patients=40):
    items = []
    for patient, i in ((patient, i) for patient in range(patients) for i in range(4)):
        path = Path(folder, f"{patient}_{i}.png")
        if folder:
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(path))
        items.append(Scan(str(path), (patient + i % 2) % K, f"patient {patient}"))
    return items


def groups(items):
    return {item.group for item in items}


@pytest.mark.parametrize(
    ("split", "shares"),
    [(divide, (0.5, 0.2, 0.3)), (hold_out, (0.8, 0.2))],
    ids=["divide", "hold_out"],
)
def test_groups_of_several_classes_stay_whole_and_parts_keep_their_shares(split, shares):
    items = scans()
    parts = split(items)
    assert sorted(map(id, items)) == sorted(id(item) for part in parts for item in part)
    assert not any(groups(a) & groups(b) for a, b in combinations(parts, 2))
    sizes = Counter(item.label for item in items)
    for part, share in zip(parts, shares, strict=True):
        for label, n in Counter(item.label for item in part).items():
            assert n / sizes[label] == pytest.approx(share, abs=0.1)
        assert {item.label for item in part} == set(range(K))
    again = split(items)
    assert again == parts


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_groups_serve_training_first_then_the_test(number):
    items = [Scan(f"{label}_{i}.png", label, f"{label}_{i % number}")
             for label in range(K) for i in range(6)]  # fmt: skip
    items += [Scan(f"x{i}.png", 0, f"more {i}") for i in range(2)]
    parts = divide(items)
    classes = [{item.label for item in part} for part in parts]
    every = set(range(K))
    assert classes[0] == every and classes[2] == (every if number > 1 else {0})
    assert classes[1] - {0} == (every - {0} if number > 2 else set())


def test_images_without_a_group_are_divided_as_before():
    alone = [None, "", math.nan]
    items = [Scan(f"{i}.png", i % K, alone[i % 3]) for i in range(40)]
    plain = [Datum(item.impath, item.label, 0, item.classname) for item in items]
    for split in (divide, hold_out):
        found, expected = ([[x.impath for x in part] for part in split(each)]
                           for each in (items, plain))  # fmt: skip
        assert found == expected
    items[0].group = 7  # the others are groups of one
    assert [len(part) for part in divide(items)] == [20, 8, 12]


@pytest.mark.parametrize("subset", ["all", "base", "new"])
def test_attributes_stay_in_halves_and_under_label_noise(tmp_path, subset):
    scans(tmp_path / "scans")
    dataset = read(Scans, tmp_path, 8, subset, LABEL_NOISE=0.5)
    assert dataset.drawn["wrong_labels"] > 0
    for item in (*dataset.train_x, *dataset.train_u, *dataset.val, *dataset.test):
        assert type(item) is Scan and Path(item.impath).stem.startswith(f"{item.group[8:]}_")
    for items in (dataset.train_x, dataset.test):
        assert {item.label for item in items} == set(range(K if subset == "all" else K // 2))
        assert all(item.classname == dataset.classnames[item.label] for item in items)


def test_a_draw_says_when_test_images_share_a_group_with_it(tmp_path, capsys):
    class Mixed(Scans):
        @staticmethod
        def own_parts(items):
            return items[::2], [], items[1::2]

    scans(tmp_path / "scans")
    dataset = read(Mixed, tmp_path, 2)
    shared = [x for x in dataset.test if x.group in groups(dataset.train_x)]
    assert 0 < len(shared) < len(dataset.test)
    said = capsys.readouterr().out
    assert (
        f"Note: {len(shared)} of the 80 test images of Mixed share a group with training images, "
        f"such as '{shared[0].impath}' (group '{shared[0].group}'): accuracy may be lower"
    ) in said
    read(Scans, tmp_path, 2)
    assert "share a group" not in capsys.readouterr().out
