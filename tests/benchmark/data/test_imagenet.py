"""Tests of `download imagenet` with made archives, named and built like the official ones."""

import hashlib
import io
import shutil
import tarfile
from collections import namedtuple

import numpy as np
import pytest
import yaml
from dassl.data.datasets import DATASET_REGISTRY
from scipy.io import savemat
from served import CLASSNAMES, JPEG, tar
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE

from benchmark.data import download

TENCH, GOLDFISH = "n01440764", "n01443537"
TRAIN, VAL, KIT = (ARCHIVE_META[kind][0] for kind in ("train", "val", "devkit"))
VALIDATION = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (3, 1, 2)]  # not sorted
SYNSETS = [(1, GOLDFISH, 0), (2, TENCH, 0), (3, "n02512053", 2)]  # the last is no class


def classes(**images):
    """Return the archive of training images: an archive of each class in one."""
    inner = {f"{wnid}.tar": tar(dict.fromkeys(names, JPEG), "w") for wnid, names in images.items()}
    return tar(inner, "w")


def kit():
    """Return the development kit, with labels of the validation images in the order of numbers."""
    kinds = [("ILSVRC2012_ID", int), *((name, object) for name in ("WNID", "words", "gloss"))]
    rows = [(id, wnid, "tench, Tinca", "a fish", sons) for id, wnid, sons in SYNSETS]
    savemat(file := io.BytesIO(), {"synsets": np.array(rows, [*kinds, ("num_children", int)])})
    content = {
        "meta.mat": file.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": b"2\n1\n2\n",
    }
    return tar({f"ILSVRC2012_devkit_t12/data/{name}": body for name, body in content.items()})


GOOD = {
    TRAIN: classes(
        **{TENCH: [f"{TENCH}_7.JPEG", f"{TENCH}_10.JPEG"], GOLDFISH: [f"{GOLDFISH}_1.JPEG"]}
    ),
    VAL: tar({name: name.encode() for name in VALIDATION}, "w"),
    KIT: kit(),
}


@pytest.fixture
def own(tmp_path, table, monkeypatch):
    """A function that puts archives, as if they were the official ones, into ImageNet's folder."""
    folder = tmp_path / "data/imagenet"
    folder.mkdir(parents=True)
    (folder / "classnames.txt").write_bytes(CLASSNAMES)
    table({"imagenet": yaml.safe_load(download.TABLE.read_text())["imagenet"]})

    def put(files, official=None):
        for kind, (name, _) in ARCHIVE_META.items():
            body = (official or files).get(name, b"")
            monkeypatch.setitem(ARCHIVE_META, kind, (name, hashlib.md5(body).hexdigest()))
        for name, body in files.items():
            (folder / name).write_bytes(body)
        return folder

    return put


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


SORTED = [
    f"train/{TENCH}/{TENCH}_10.JPEG", f"train/{TENCH}/{TENCH}_7.JPEG",
    f"train/{GOLDFISH}/{GOLDFISH}_1.JPEG",
    f"val/{TENCH}/ILSVRC2012_val_00000001.JPEG", f"val/{TENCH}/ILSVRC2012_val_00000003.JPEG",
    f"val/{GOLDFISH}/ILSVRC2012_val_00000002.JPEG",
]  # fmt: skip


def test_the_archives_are_sorted_and_read(own, get):
    folder = own(GOOD)
    ran = get("imagenet")
    assert ran.code == 0, ran.err
    assert f"images/val: is complete; not needed any more: {VAL} and {KIT}" in ran.out
    assert f"imagenet: is complete in '{folder}'" in ran.out
    assert tree(folder / "images") == SORTED
    assert {path.name for path in folder.iterdir()} == {
        "classnames.txt",
        "images",
        META_FILE,
        *GOOD,
    }
    name = VALIDATION[1]  # each file has its own content
    assert (folder / "images/val" / TENCH / name).read_text() == name
    train, _, test = DATASET_REGISTRY.get("ImageNet").read(folder)
    assert [item.classname for item in train] == ["tench", "tench", "goldfish"]
    assert [item.label for item in test] == [0, 0, 1]
    assert "already complete" in get("imagenet").out


def test_the_archives_come_from_a_mirror(own, server, get):
    folder = own({}, GOOD)
    server.files = dict(GOOD)
    server.cuts[TRAIN] = [5000]
    ran = get("imagenet", "--mirror", server.url)
    assert ran.code == 0, ran.err
    assert tree(folder / "images") == SORTED and ran.out.startswith(f"imagenet: {TRAIN} (")
    assert [name for name, *_ in server.log].count(TRAIN) == 2  # a broken chunk is not kept


def test_what_is_missing_is_said_and_the_rest_is_sorted(own, get):
    folder = own({TRAIN: GOOD[TRAIN], VAL: GOOD[VAL]})
    ran = get("imagenet")
    assert ran.code == 1 and f"imagenet: {VAL}, {KIT}: available only" not in ran.err
    assert f"imagenet: {KIT}: available only to users" in ran.err
    assert tree(folder / "images") == [name for name in SORTED if name.startswith("train")]


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_stopped_call_begins_anew(stop, own, get, monkeypatch):
    folder = own(GOOD)
    chown, extracted = tarfile.TarFile.chown, []

    def stopped(*args):
        extracted.append(args)
        if len(extracted) == stop:
            raise KeyboardInterrupt
        chown(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "chown", stopped)
        ran = get("imagenet")
    assert ran.code == 130 and "if this is stopped, it begins anew" in ran.out
    assert not list((folder / "images").rglob(".*")) and len(list(folder.rglob("*.JPEG"))) < 6
    (folder / "images/.val/rest").mkdir(parents=True)  # as a call that was killed leaves it
    assert get("imagenet").code == 0 and tree(folder / "images") == SORTED


@pytest.mark.parametrize("name", [TRAIN, VAL, KIT])
def test_another_file_than_the_official_one_is_not_unpacked(name, own, get):
    folder = own(GOOD, GOOD | {name: b""})
    ran = get("imagenet")
    part, both = ("train", TRAIN) if name == TRAIN else ("val", f"{VAL} or {KIT}")
    assert ran.code == 1
    assert f"imagenet: images/{part}: {both} is not the official file: get it again\n" in ran.err
    made = [path for path in SORTED if not path.startswith(part)]
    assert tree(folder / "images") == made and (folder / name).read_bytes() == GOOD[name]


def test_a_full_disk_is_said_before_the_archives_are_unpacked(own, get, monkeypatch):
    folder = own(GOOD)
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(9000))
        ran = get("imagenet")
    assert ran.code == 1 and ran.err.count("make space on this disk") == 2
    assert not list((folder / "images").iterdir())
    assert get("imagenet").code == 0 and tree(folder / "images") == SORTED
