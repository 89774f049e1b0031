"""Data sets with several labels an image: labels, draws, halves, and loaders of them."""

from functools import partial

import numpy as np
import pytest
import torch
from dassl.data.data_manager import DatasetWrapper
from dassl.data.samplers import build_sampler
from dassl.utils import UserError as DasslError
from feature_files import write
from own_images import read
from PIL import Image
from yacs.config import CfgNode

from datasets.noise import generator
from datasets.several import SeveralLabels
from datasets.tags import Tagged, draw, table
from trainers.prompting import UserError
from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.checkpoint.several import ONE_LABEL, SEVERAL

NAMES = ("cat", "dog", "cow", "sea")
LABELS = [(1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 0, 1), (0, 0, 1, -1), (0, 0, 0, 0), (1, 0, 1, 0)]


class Small(SeveralLabels):
    """`labels` three times, for training, validation and test."""

    labels = LABELS

    @classmethod
    def read(cls, folder):
        return [
            [Tagged(f"{folder}/{part}{i}.png", label, NAMES) for i, label in enumerate(labels)]
            for part, labels in (("train", cls.labels), ("val", cls.labels), ("test", LABELS))
        ]


small = partial(read, Small)


@pytest.fixture
def root(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        for n in range(len(LABELS)):
            Image.new("RGB", (4, 4), (i, n, 0)).save(tmp_path / f"{part}{n}.png")
    return tmp_path


def test_labels_reach_a_batch(root, capsys):
    data = small(root)
    assert data.several and data.classnames == [*NAMES] and data.num_classes == 4
    assert "Note: 1 training images of Small have no class, and are kept" in capsys.readouterr().out
    assert data.division["train of class 3 'sea, unknown'"].startswith("1 images")
    cfg = CfgNode({"DATALOADER": {"K_TRANSFORMS": 1, "CACHE_GIB": 0.0}})
    images = DatasetWrapper(cfg, data.test, transform=lambda image: torch.zeros(1))
    batch = next(iter(torch.utils.data.DataLoader(images, batch_size=4)))  # of B = K
    assert batch["label"].dtype == torch.int8
    assert batch["label"].tolist() == [*map(list, LABELS[:4])]
    with pytest.raises(DasslError, match="RandomClassSampler draws images of one class, but"):
        build_sampler("RandomClassSampler", data_source=data.train_x)


def test_a_note_says_which_test_images_share_a_group_with_training_images(root, capsys):
    class Places(Small):
        @classmethod
        def read(cls, folder):
            parts = super().read(folder)
            for i, item in enumerate(item for part in parts for item in part):
                item.group = i % 7  # group 6 is of one test image, and of no training image
            return parts

    read(Places, root)
    assert "Note: 5 of the 6 test images of Places share a group with" in capsys.readouterr().out


@pytest.mark.parametrize("labels, why", [
    ([(1, 0, 2, 0), *LABELS], r"train0.png' has the label \(1, 0, 2, 0\), but needs 1"),
    ([(1, 0, 0), *LABELS], r"the label \(1, 0, 0\), but needs"),
    ([(-1,) * 4] * 6, "class 'cat' is unknown in all of the training images"),
    ([(1, 0, 0, 0), (0, 1, 0, 1)], "class 'cow' is in none of the training images"),
    ([(1, 1, 0, 0), (1, 0, 1, 1)], "class 'cat' is in all of the training images"),
])  # fmt: skip
def test_labels_that_teach_nothing(root, monkeypatch, labels, why):
    monkeypatch.setattr(Small, "labels", labels)
    with pytest.raises(UserError, match=why):
        small(root)


def test_all_images_have_the_same_classes(root, monkeypatch):
    train, val, test = Small.read(root)
    other = [Tagged(x.impath, x.label, ("dog", "cat", "cow", "sea")) for x in test]
    monkeypatch.setattr(Small, "read", lambda folder: [train, val, other])
    with pytest.raises(UserError, match="test0.png' has the label .* class of '.*train0.png'"):
        small(root)


def test_keys_are_for_one_label_or_for_several(root):
    with pytest.raises(UserError, match="LABEL_NOISE is 0.5, which is for images with one, but"):
        small(root, LABEL_NOISE=0.5)
    with pytest.raises(UserError, match="KNOWN is 0.5, which is for images with several, but"):
        read("Emoji", "", KNOWN=0.5)
    assert {*ONE_LABEL, *SEVERAL} < {*KEYS}


def test_shots_begin_with_the_rarest_class():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.01]).astype(int)
    items = [Tagged(str(i), tuple(row), tuple("abcdef")) for i, row in enumerate(labels.tolist())]
    for n in (1, 4):
        found = draw(items, n, generator("shots", 1))
        counts = (table(found) == 1).sum(0)
        assert (counts >= np.minimum((table(items) == 1).sum(0), n)).all()
        assert len(found) <= 6 * n and counts[4] == n  # no class is drawn for that others give
        assert [int(item.impath) for item in found] == sorted(int(x.impath) for x in found)
    assert [x.impath for x in draw(items, 4, generator("shots", 1))] == [x.impath for x in found]
    assert [x.impath for x in draw(items, 4, generator("shots", 2))] != [x.impath for x in found]
    assert generator("shots", 0).random() == generator("shots", 0).random()
    assert generator("shots", -1).random() != generator("shots", -1).random()


def test_shots_are_drawn_from_validation_images_too(root):
    data = small(root, shots=1)
    for items in (data.train_x, data.val):
        assert len(items) < len(LABELS) and (table(items) == 1).any(0).all()
    assert len(data.test) == len(LABELS)


def test_known_labels(root, capsys):
    less, more = (table(small(root, KNOWN=share).train_x) for share in (0.3, 0.7))
    assert ((less == -1) | (less == more)).all() and (less == -1).sum() > (more == -1).sum()
    assert (table(small(root, KNOWN=0.3).train_x) == less).all()  # as in a resumed run
    assert (table(small(root, KNOWN=0.3, seed=2).train_x) != less).any()
    assert (table(small(root, KNOWN=0.3).val) == np.array(LABELS)).all()
    assert "drawn here (seed 1) and in no publication" in capsys.readouterr().out


@pytest.mark.parametrize("subset, names, train, test", [
    ("base", "cat dog", "014", "0125"), ("new", "cow sea", "34", "235"),
    ("both", "cat dog cow sea", "012345", "01235"),
])  # fmt: skip
def test_halves(root, subset, names, train, test):
    data = small(root, subset=subset)
    assert data.classnames == names.split() and not data.other_classnames
    for items, wanted in ((data.train_x, train), (data.test, test)):
        assert "".join(item.impath[-5] for item in items) == wanted
    if subset == "new":
        assert data.test[1].label == (1, -1) and data.test[1].classname == "cow"


def test_validation_images_are_held_out(root, monkeypatch):
    train, val, test = Small.read(root)
    monkeypatch.setattr(Small, "read", lambda folder: [train + val, [], test])
    data = small(root, VALIDATION_SHOTS=1)
    assert data.val == data.validation and {*table(data.val).max(0)} <= {1, 0}
    assert not {x.impath for x in data.val} & {x.impath for x in data.train_x}
    assert len(data.val) + len(data.train_x) == 2 * len(LABELS)
    with pytest.raises(UserError, match="of which it leaves none of a class"):
        small(root, VALIDATION_SHOTS=9)


def test_rows_of_features(tmp_path):
    label = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, -1], [1, 1, 0]] * 6, dtype=torch.int8)
    file = write(tmp_path / "a.safetensors", {"label": label}, {"dataset": "WHURS19"})
    data = read("FeatureFile", "", FEATURES=str(file))
    assert data.several and data.train_x[1].label == (0, 1, 1)
    with pytest.raises(UserError, match="'label' has numbers from -2 to 2, but they must be -1 to"):
        write(tmp_path / "c.safetensors", {"label": label * 2})
