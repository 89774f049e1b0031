"""What is refused before the first run: data without validation images, keys that do not exist."""

import pytest

from benchmark.__main__ import main
from benchmark.protocols import BASE2NEW
from benchmark.tune.validation import check
from trainers.prompting.errors import UserError


def tune(tmp_path, capsys, *words) -> str:
    asked = ["--trainers", "CoOp", "--seeds", "1", "--output", str(tmp_path / "output")]
    assert main(["tune", *words, *asked]) == 2
    assert not (tmp_path / "output").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_data_without_validation_images(tmp_path, capsys):
    line = tune(tmp_path, capsys, "emoji_food", "--root", str(tmp_path), "OPTIM.LR=0.1,0.2")
    assert line == (
        "python -m benchmark tune: emoji_food has no validation images to choose on: tune on other "
        "data sets, or on your own images, in a folder with val/ or without train/ and test/"
    )


def test_a_key_that_does_not_exist(tmp_path, capsys):
    line = tune(tmp_path, capsys, "emoji", "--root", str(tmp_path), "OPTIM.RATE=0.1,0.2")
    assert "the command line sets 'OPTIM.RATE', but OPTIM has no 'RATE'" in line


def test_validation_images_that_are_test_images(tmp_path):
    """As those of ImageNet."""
    names = {"trainer": "CoOp", "config": "a", "seed": 1, "shots": 1, "dataset": "imagenet"}
    run = BASE2NEW.run(tmp_path, "base", **names)
    with pytest.raises(UserError, match="of imagenet are test images, on which nothing may be"):
        check(run, {"a.png", "b.png"}, {"b.png"})
    check(run, {"a.png"}, {"b.png"})
