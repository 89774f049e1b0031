"""Tests of `download imagenet` with made archives, named and built like the official ones."""

import hashlib
import io
import shutil
import tarfile
from collections import namedtuple

import numpy as np
import pytest
import yaml
from scipy.io import savemat
from served import CLASSNAMES, JPEG, link, tar
from torchvision.datasets.imagenet import ARCHIVE_META

from benchmark.data import archives, download, imagenet
from datasets.imagenet import ImageNet

TENCH, GOLDFISH = "n01440764", "n01443537"
TRAIN, VAL, KIT = (ARCHIVE_META[kind][0] for kind in ("train", "val", "devkit"))
VALIDATION = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (3, 1, 2)]  # not sorted
SYNSETS = [(1, GOLDFISH, 0), (2, TENCH, 0), (3, "n02512053", 2)]  # the last is no class


def classes(**images):
    """Return the archive of training images: an archive of each class in one."""
    inner = {f"{wnid}.tar": tar(dict.fromkeys(names, JPEG), "w") for wnid, names in images.items()}
    return tar(inner, "w")


def kit(labels="2\n1\n2\n"):
    """Return the development kit, with labels of the validation images in the order of numbers."""
    kinds = [("ILSVRC2012_ID", int), *((name, object) for name in ("WNID", "words", "gloss"))]
    rows = [(id, wnid, "tench, Tinca", "a fish", sons) for id, wnid, sons in SYNSETS]
    savemat(file := io.BytesIO(), {"synsets": np.array(rows, [*kinds, ("num_children", int)])})
    content = {
        "meta.mat": file.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": labels.encode(),
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
    assert {path.name for path in folder.iterdir()} == {"classnames.txt", "images", *GOOD}
    name = VALIDATION[1]  # each file has its own content
    assert (folder / "images/val" / TENCH / name).read_text() == name
    train, _, test = ImageNet.read(folder)
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
    assert (TRAIN, "bytes=5000-", 206) in server.log


def test_what_is_missing_is_said_and_the_rest_is_sorted(own, get):
    folder = own({TRAIN: GOOD[TRAIN], VAL: GOOD[VAL]})
    ran = get("imagenet")
    assert ran.code == 1 and f"imagenet: {VAL}, {KIT}: available only" not in ran.err
    assert f"imagenet: {KIT}: available only to users" in ran.err
    assert tree(folder / "images") == [name for name in SORTED if name.startswith("train")]


@pytest.mark.parametrize("stop, again", [(1, 6), (4, 3), (6, 1)])
def test_a_stopped_call_is_continued(stop, again, own, get, monkeypatch):
    folder = own(GOOD)
    extract, extracted, hashed, bars = tarfile.TarFile.extract, [], [], []

    def stopped(file, member, *args, **kwargs):
        extract(file, member, *args, **kwargs)
        extracted.append(member.name)
        if len(extracted) == stop:
            raise KeyboardInterrupt

    def bar(*args):
        bars.append(archives.progress(*args))
        return bars[-1]

    monkeypatch.setattr(tarfile.TarFile, "extract", stopped)
    monkeypatch.setattr(imagenet, "progress", bar)
    ran = get("imagenet")
    assert ran.code == 130 and "Rerun the same command to resume." in ran.err
    assert not (folder / "images/val").exists()
    monkeypatch.setattr(imagenet, "check_sum", lambda path, *_: hashed.append(path.name))
    ran = get("imagenet")
    assert ran.code == 0 and tree(folder / "images") == SORTED
    assert len(extracted) == stop + again
    assert hashed == ([VAL, KIT] if stop == 1 else [])  # what was begun is not hashed again
    assert bars[-1].n == bars[-1].total == sum(map(len, VALIDATION))


EXTRA = {"evil.JPEG": b""}
WRONG = {
    "truncated training": (TRAIN, GOOD[TRAIN][:-12_000], "is broken or incomplete (unexpected end"),
    "truncated validation": (VAL, GOOD[VAL][:1000], "is broken or incomplete (unexpected end"),
    "truncated kit": (KIT, GOOD[KIT][:200], "does not hold the labels (EOFError"),
    "no archive": (VAL, b"<html>" * 1000, "is broken or incomplete"),
    "empty": (TRAIN, tar({}, "w"), "is empty"),
    "few labels": (KIT, kit("2\n1\n"), "has 2 labels, but "),
    "many labels": (KIT, kit("2\n1\n2\n1\n"), "has 4 labels, but "),
    "unknown label": (KIT, kit("2\n1\n3\n"), "does not hold the labels (KeyError(3))"),
    "no label": (KIT, kit("2\nx\n1\n"), "does not hold the labels (ValueError"),
    "one class": (KIT, kit("1\n1\n1\n"), f"1 are in one of them only, such as {TENCH}"),
    "other classes": (
        TRAIN, classes(n00000001=["n00000001_1.JPEG"]),
        "3 are in one of them only, such as n00000001",
    ),
    "other images": (
        TRAIN, classes(**{TENCH: EXTRA, GOLDFISH: EXTRA}), "holds 'evil.JPEG', which does",
    ),
    "broken class": (
        TRAIN, tar({f"{wnid}.tar": b"?" * 5000 for wnid in (TENCH, GOLDFISH)}, "w"),
        f"{TRAIN}/{TENCH}.tar' is broken or incomplete",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_archive_is_one_sentence(case, own, get):
    name, body, sentence = WRONG[case]
    folder = own(GOOD | {name: body})
    ran = get("imagenet")
    problems = [line for line in ran.err.splitlines() if line.startswith("imagenet: ")]
    part = "train" if name == TRAIN else "val"
    assert ran.code == 1 and sentence in ran.err and "Traceback" not in ran.err
    assert len(problems) == 1 and problems[0].startswith(f"imagenet: images/{part}: '")
    assert problems[0].endswith(("get it again", "get both again"))
    assert not (folder / "images" / part).exists() and (folder / name).read_bytes() == body


def test_another_file_than_the_official_one_is_not_unpacked(own, get):
    folder = own(GOOD, GOOD | {TRAIN: b"", KIT: b""})
    ran = get("imagenet")
    assert ran.code == 1 and not (folder / "images").exists()
    for name in (TRAIN, KIT):
        assert f"'{folder / name}' is not the official file: its md5 is " in ran.err


def outer(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        for member in members:
            file.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(kind, inside, own, get, tmp_path):
    evil = outer(
        link(f"{TENCH}_1.JPEG", "../../../../evil", kind), tarfile.TarInfo(f"{TENCH}_1.JPEG")
    )
    whole = tar({f"{TENCH}.tar": evil, f"{GOLDFISH}.tar": evil}, "w")
    body = whole if inside else outer(link(f"{TENCH}.tar", "/tmp", kind))
    folder = own(GOOD | {TRAIN: body})
    ran = get("imagenet")
    assert ran.code == 1 and "which does not belong there" in ran.err
    assert not list(tmp_path.rglob("*evil*")) and not list((folder / "images").rglob(f"{TENCH}_*"))


@pytest.mark.parametrize("member", [f"../{TENCH}.tar", f"/tmp/{TENCH}.tar", f"{TENCH}/x.tar"])
def test_members_stay_in_their_folder(member, own, get):
    own(GOOD | {TRAIN: outer(tarfile.TarInfo(member))})
    assert f"holds '{member.lstrip('/')}'" in get("imagenet").err.replace("'/tmp", "'tmp")


def test_a_full_disk_is_said_before_and_while_sorting(own, get, monkeypatch):
    folder = own(GOOD)
    usage = namedtuple("usage", "free")
    for free in ([0, 0], [10**6, 10**6, 0, 0]):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free.pop(0)))
            ran = get("imagenet")
        assert ran.code == 1 and not free and ran.err.count("make space on this disk") == 2
    assert "images/train: 10.2kB are needed in" in ran.err  # of the second class
    assert {path.parent.name for path in folder.rglob("*.JPEG")} == {TENCH}
    assert get("imagenet").code == 0 and tree(folder / "images") == SORTED
