"""BiomedCoOp's eleven data sets, read from small folders in their layout."""

import json

import pytest
from own_images import counts, registered
from public_layouts import jpegs, load

from benchmark.protocols.configs import GROUPS

# not in alphabetical order, with names that have spaces and brackets, as the public files have
CLASSES = ["glioma tumor", "meningioma tumor", "pituitary tumor", "normal brain"]


def made(root, name):
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
    made(tmp_path, registered(config))
    dataset = load(config, tmp_path)
    assert dataset.classnames == CLASSES and counts(dataset) == (4, 4, 4)
    assert [item.label for item in dataset.test] == [0, 1, 2, 3]
    assert not dataset.as_published and " as published" in capsys.readouterr().out
    assert load(config, tmp_path, subset="new").classnames == CLASSES[2:]


def test_a_missing_split_is_made_anew_and_said(tmp_path, capsys):
    made(tmp_path, "BUSI")
    (tmp_path / "BUSI" / "split_BUSI.json").unlink()
    names = load("busi", tmp_path).classnames
    assert names == sorted(title.replace(" ", "_") for title in CLASSES)
    assert "not the published one" in capsys.readouterr().out
