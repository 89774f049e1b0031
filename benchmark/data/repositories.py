"""Lay out data sets that are folders of public repositories as folders of classes.

git's name of the folder is checked: the same archive, made again, may have another checksum.
"""

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from trainers.prompting.errors import need
from trainers.prompting.images.class_folders import read_lines

from .archives import find

# val.txt lacks 21 of the classes: runs hold out validation images of each class
LISTS = {"train": ("train", "val"), "test": ("test",)}
SETS = {"grocery": "Class Name (str)", "grocery_coarse": "Coarse Class Name (str)"}


def arrange(content: Path, tree: Mapping[str, str]) -> Path:
    """Return a folder, in the unpacked `content`, with the data set that `tree` has by folder."""
    ((name, expected),) = tree.items()
    source, target = find(content, name), content / "arranged"
    sha = git_tree(source)
    need(sha == expected, f"the folder '{name}' of the archive is {sha}, not {expected}, to git")
    {"dataset": arrange_grocery, "WHURS19": arrange_whurs19}[name](source, target)
    return target


def arrange_grocery(source: Path, target: Path) -> None:
    """Lay out the Grocery Store Dataset: 5,421 photographs by a phone, of 81 or of 43 groceries.

    Klasson et al., A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels (WACV
    2019). Each of SETS has train/ and test/, classnames.txt and, from the descriptions,
    sentences.json: one by one, since whole descriptions are too long for a CLIP.
    """
    with open(source / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, column in SETS.items():
        folder_of = {row["Class ID (int)"]: row[column] for row in rows}
        for part, lists in LISTS.items():
            for of in lists:
                for line in (source / f"{of}.txt").read_text("utf-8").splitlines():
                    image, label, _ = line.split(", ")
                    folder = target / name / part / folder_of[label]
                    _link(source / image, folder / f"{of}_{Path(image).name}")
        sentences: dict[str, list[str]] = {}
        for row in rows:
            text = source / row["Product Description Path (str)"].lstrip("/")
            said = re.split(r"(?<=[.!]) ", " ".join(text.read_text("utf-8").split()))
            thing = row["Class Name (str)"].replace("-", " ")
            own = [x if thing.lower() in x.lower() else f"{thing}: {x}" for x in said if x]
            sentences.setdefault(row[column].replace("-", " "), []).extend(own)
        (target / name / "sentences.json").write_text(json.dumps(sentences, indent=1), "utf-8")
        _write_names(target / name, {x: x.replace("-", " ") for x in folder_of.values()})


def arrange_whurs19(source: Path, target: Path) -> None:
    """Lay out WHU-RS19: 1,005 aerial photographs of 19 classes, whose files are `CLASS_NUMBER.jpg`.

    Xia et al., Structural High-resolution Satellite Image Indexing (ISPRS TC VII Symposium 2010).
    """
    for image in (source / "images").iterdir():
        _link(image, target / "images" / image.stem.rpartition("_")[0] / image.name)
    lists = (read_lines(source / f"{name}.txt") for name in ("classes", "class_changes"))
    _write_names(target / "images", dict(zip(*lists, strict=True)))


def _link(image: Path, target: Path) -> None:
    """Let two names stand for an image, so that two sets take the space of one, if the disk can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, target)
    except OSError:
        shutil.copyfile(image, target)


def _write_names(folder: Path, names: Mapping[str, str]) -> None:
    """Write the classnames.txt of class folders."""
    text = "".join(f"{of} {name}\n" for of, name in names.items())
    (folder / "classnames.txt").write_text(text, "utf-8")


def git_tree(folder: Path) -> str:
    """Return git's name (SHA-1) of a folder of plain files."""
    entries = []
    for path in folder.iterdir():
        name, mode, key = path.name, "100644", path.name
        if path.is_dir():
            sha, mode, key = git_tree(path), "40000", f"{name}/"  # as git sorts them
        else:
            sha = _git_name(b"blob", path.read_bytes())
        entries.append((key.encode(), f"{mode} {name}\0".encode() + bytes.fromhex(sha)))
    return _git_name(b"tree", b"".join(entry for _, entry in sorted(entries)))


def _git_name(kind: bytes, content: bytes) -> str:
    head = b"%s %d\0" % (kind, len(content))
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
