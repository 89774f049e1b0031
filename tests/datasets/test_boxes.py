"""VOC2007 and COCO2014 in their official layouts, published shares of labels, and odd files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from own_images import counts, read
from public_layouts import jpegs, lines

from benchmark.data.check_data import check_set
from datasets.boxes import COCO2014, VOC2007, read_share
from datasets.tags import Tagged, table
from trainers.prompting import UserError

CAT, PERSON, TV = (VOC2007.names.index(name) for name in ("cat", "person", "tvmonitor"))
TRAINVAL = [f"{i:06}" for i in range(1, 31)]
NAMES = sorted({*COCO2014.seen, *COCO2014.unseen, *(f"neither {i}" for i in range(15))})


def annotate(folder, image, *objects):
    """Write the annotations of an image: names of objects, the difficult ones with a mark."""
    things = "".join(
        f"<object><name>{x.strip('?')}</name><difficult>{int('?' in x)}</difficult>"
        "<part><name>head</name></part></object>"
        for x in objects
    )
    lines(folder / "Annotations" / f"{image}.xml", f"<annotation>{things}</annotation>")


@pytest.fixture
def voc(tmp_path):
    folder, lists = tmp_path / "VOCdevkit" / "VOC2007", "ImageSets/Main"
    test = ["000031", "000032"]
    parts = {"trainval": TRAINVAL, "train": TRAINVAL[:25], "val": TRAINVAL[25:], "test": test}
    for part, images in parts.items():
        lines(folder / lists / f"{part}.txt", *images)
    jpegs(folder / "JPEGImages", *(f"{image}.jpg" for image in TRAINVAL + test))
    for i, image in enumerate(TRAINVAL + test):
        annotate(folder, image, VOC2007.names[i % 20])
    annotate(folder, TRAINVAL[20], "cat?", "person", "cat?", "person?")
    annotate(folder, TRAINVAL[21], "cat?", "cat", "tvmonitor?")
    return folder


def test_difficult_objects_are_unknown(voc, tmp_path):
    data = read("VOC2007", tmp_path)
    assert counts(data) == (30, 0, 2) and data.difficult
    assert [x.label[CAT] for x in data.train_x[20:23]] == [-1, 1, 0]
    assert data.train_x[20].label[PERSON] == 1 and data.train_x[21].label[TV] == -1
    assert data.classnames[TV] == "tv monitor" and data.train_x[20].classname == "person"
    chosen = read("VOC2007", tmp_path, VALIDATION_SHOTS=1)
    assert counts(chosen) == (25, 5, 2) and chosen.val[0].impath.endswith("000026.jpg")
    finding = check_set("voc2007", VOC2007, tmp_path)
    assert finding.problem == "30 train images instead of 5,011"


def test_published_shares(voc, tmp_path, capsys):
    known = read_share(1)
    assert known.shape == (5011, 20) and round(100 * known.mean(), 1) == 10.1
    assert int((~known).all(1).sum()) == 533 and (known <= read_share(2)).all()
    with pytest.raises(UserError, match=r"all 5,011 training images, and here are 30: complete"):
        read("VOC2007", tmp_path, KNOWN=0.7)
    read("VOC2007", tmp_path, KNOWN=0.71)
    assert "and in no publication" in capsys.readouterr().out
    names = ("person", "tv monitor")
    train = [Tagged(f"{i:06}.jpg", (1, 0), names) for i in (7, 9)]
    data = SimpleNamespace(lines={f"{i:06}": i for i in range(5011)}, expected=VOC2007.expected,
                           class_names=VOC2007.class_names, names=VOC2007.names)  # fmt: skip
    found = table(VOC2007.hide(data, train, 0.7, 1))
    assert ((found != -1) == read_share(7)[[7, 9]][:, [PERSON, TV]]).all()
    assert (found[:, 0] != 0).all() and (found[:, 1] != 1).all()


def coco(tmp_path, **changes):
    """Write COCO2014 with an image of each class in either part, and one without annotations."""
    folder = tmp_path / "COCO"
    for part in ("train2014", "val2014"):
        files = [f"COCO_{part}_{i:012}.jpg" for i in range(81)]
        jpegs(folder / part, *files)
        rows = [{"image_id": i, "category_id": 90 - i, "iscrowd": 0} for i in range(80)]
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
            "categories": [{"id": 90 - i, "name": name} for i, name in enumerate(NAMES)],
            "annotations": [*rows, {"image_id": 0, "category_id": 90}, *changes.get(part, [])],
        }
        lines(folder / "annotations" / f"instances_{part}.json", json.dumps(content))
    return folder


def test_images_without_annotations_are_kept(tmp_path, capsys):
    coco(tmp_path)
    data = read("COCO2014", tmp_path)
    assert counts(data) == (81, 0, 81) and data.classnames == NAMES[::-1]  # by their numbers
    assert data.train_x[0].classname == NAMES[0] and not any(data.train_x[80].label)
    assert "Note: 1 training images of COCO2014 have no class, and are kept" in (
        capsys.readouterr().out
    )
    finding = check_set("coco2014", COCO2014, tmp_path)
    assert finding.problem == "81 train images instead of 82,783"


def test_the_division_of_papers(tmp_path):
    coco(tmp_path)
    for subset, classes, tested in (("base", 48, 48), ("new", 17, 17), ("both", 65, 65)):
        data = read("COCO2014", tmp_path, subset=subset)
        assert len(data.classnames) == classes and len(data.test) == tested
    assert data.classnames.count("cat") == 1 and "neither 0" not in data.classnames
    assert not np.any(table(read("COCO2014", tmp_path, subset="base").train_x[-1:]))


@pytest.mark.parametrize("file, text, why", [
    ("Annotations/000003.xml", "<annotation><object>", "usual form .ParseError"),
    ("Annotations/000003.xml", "<a><object><name>ox</name></object></a>", "usual form"),
    ("Annotations/000003.xml", None, "has no '.*000003.xml' .No such file"),
    ("JPEGImages/000003.jpg", None, "names the image '.*000003.jpg', which does not exist"),
    ("ImageSets/Main/test.txt", None, "has no '.*test.txt'"),
])  # fmt: skip
def test_odd_files_of_voc(voc, tmp_path, file, text, why):
    (voc / file).unlink()
    if text is not None:
        lines(voc / file, text)
    with pytest.raises(UserError, match=why):
        read("VOC2007", tmp_path)


@pytest.mark.parametrize("row, why", [
    ({"image_id": 99, "category_id": 11}, "usual form .KeyError.99"),
    ({"image_id": 1}, "usual form .KeyError"),
])  # fmt: skip
def test_odd_annotations_of_coco(tmp_path, row, why):
    coco(tmp_path, train2014=[row])
    with pytest.raises(UserError, match=why):
        read("COCO2014", tmp_path)


def test_odd_files_of_coco(tmp_path):
    folder = coco(tmp_path)
    (folder / "val2014" / "COCO_val2014_000000000003.jpg").unlink()
    with pytest.raises(UserError, match="000000000003.jpg', which does not exist"):
        read("COCO2014", tmp_path)
