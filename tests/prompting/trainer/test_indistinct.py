"""Classes that a CLIP cannot distinguish by their names, and two classes of one name."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import results, run

from trainers.prompting import build_method, load_run
from trainers.prompting.backbones.closed import Closed
from trainers.prompting.capabilities.per_class import places
from trainers.prompting.encoders.indistinct import find_indistinct

OWN = ["DATASET.NAME", "ImageFolder"]


def write(root, names, classnames=""):
    rng = np.random.default_rng(0)
    for name in names:
        colour = rng.integers(30, 225, 3)
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = (colour + rng.integers(-20, 20, (32, 32, 3))).astype("uint8")
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    if classnames:
        (root / "classnames.txt").write_text(classnames)
    return root


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """The words of two classes are unknown to the tiny CLIP."""
    return write(tmp_path_factory.mktemp("flowers"), ["rose", "sea", "tulip"])


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two classes have one name, with the images of two colours."""
    names = "a sea\nb sea\nc road\n"
    return write(tmp_path_factory.mktemp("twice"), ["a", "b", "c"], names)


def test_classes_that_the_clip_does_not_know_are_named(flowers, tmp_path, capsys):
    assert run(flowers, "CoOp", tmp_path / "out", 1, extra=OWN) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot tell these classes by their names: rose = tulip" in said


def test_unknown_words_are_indistinct_and_known_ones_are_not(tiny_clip):
    names = ["rose", "sea", "tulip"]
    method = build_method("CoOp", {}, tiny_clip, names)
    assert find_indistinct(method.text_encoder) == [[0, 2]]
    known = build_method("CoOp", {}, tiny_clip, ["sea", "road", "forest"])
    assert find_indistinct(known.text_encoder) == []


def test_a_closed_encoder_is_judged_by_its_features():
    h = torch.tensor([[[1.0, 0], [0, 1], [1, 0]], [[1.0, 0], [0, 1], [1, 0]]])
    encoder = Mock(closed=Closed(torch.nn.Identity()), return_value=SimpleNamespace(h=h))
    assert find_indistinct(encoder) == [[0, 2]]
    h[1, 2] = torch.tensor([0.6, 0.8])  # the second prompt tells them apart
    assert find_indistinct(encoder) == []


def test_two_classes_of_one_name_stay_apart(twice, tmp_path, capsys):
    """2SFS has a row for each class, which an evaluation looked up by name."""
    out, steps = tmp_path / "out", ["OPTIM.STEPS", "16", "OPTIM.LR", "0.05"]
    assert run(twice, "TwoSFS", out, 2, extra=[*OWN, *steps]) == 0
    said = capsys.readouterr().out
    assert "one name, so that only a method with something for each class" in said
    assert "cannot tell" not in said  # of the same name: there is the other note
    flags = ("--eval-only", "--model-dir", str(out))
    assert run(twice, "TwoSFS", tmp_path / "again", 2, *flags, extra=[*OWN, *steps]) == 0
    first, again = (results(folder) for folder in (out, tmp_path / "again"))
    assert first["accuracy"] == again["accuracy"] == 100.0
    assert list(again["per_class_accuracy"]) == ["sea (class 0)", "sea (class 1)", "road"]
    assert load_run(out).model.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["sea", "sea", "road"], [0, 1, 2]),
        (["sea", "road"], [1, 2]),
        (["sea", "sea"], [0, 1]),
        (["road", "sea"], [2, 0]),
        (["road", "forest"], [2, -1]),
    ],
)
def test_places_of_classes(names, found):
    assert places(names, ["sea", "sea", "road"]) == found
