"""`promptedclip emoji`: data to try another checkout with."""

from collections import Counter
from pathlib import Path

import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

import datasets  # noqa: F401 (registers them)
from trainers.prompting import extend_cfg
from trainers.prompting.use.commands import main


def built(name, root=""):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    return DATASET_REGISTRY.get(name)(cfg)


def listed(items):
    """Return the content of each image with its label and class name."""
    return Counter((Path(x.impath).read_bytes(), x.label, x.classname) for x in items)


def test_the_data_are_those_of_emoji(tmp_path, capsys):
    root = tmp_path / "my data"
    assert main(["emoji", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"1,064 emoji of 37 classes are in '{root}/caltech-101'. Try ")
    assert f"    --root '{root}' \\\n" in said
    theirs, ours = built("Caltech101", root), built("Emoji")
    for part in ("train_x", "val", "test"):
        assert listed(getattr(theirs, part)) == listed(getattr(ours, part))
    assert theirs.classnames == ours.classnames
    assert "OpenMoji" in (root / "caltech-101" / "ATTRIBUTION.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "place, code, said",
    [
        ("there", 2, "/caltech-101' exists, and emoji would mix with its files: give another"),
        ("file", 1, "cannot be written or read (Not a directory): a file is where a folder belo"),
    ],
)
def test_nothing_is_replaced(tmp_path, capsys, place, code, said):
    (tmp_path / "there" / "caltech-101").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert main(["emoji", str(tmp_path / place)]) == code
    assert said in capsys.readouterr().err
    assert not any((tmp_path / "there" / "caltech-101").iterdir())
