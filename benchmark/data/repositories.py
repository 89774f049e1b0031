"""Lay out the Grocery Store Dataset as folders of classes, with a description of each class.

Klasson et al., A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels (WACV
2019): 5,421 photographs by a phone, of 81 groceries of 43 kinds; MIT License.
"""

import csv
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from trainers.prompting.errors import need

from .archives import find

NAME = "grocery"
TREE = "e7756d505f53e3eef89ae1ee97f3a799a9885475"  # git's name of the folder `dataset`
# val.txt lacks 21 of the classes: runs hold out validation images of each class
LISTS = {"train": ("train", "val"), "test": ("test",)}
SETS = {"grocery": "Class Name (str)", "grocery_coarse": "Coarse Class Name (str)"}


def arrange(content: Path) -> Path:
    """Return a folder, inside the unpacked `content`, with each of SETS as class folders.

    Each has train/ and test/, classnames.txt and, from the descriptions, sentences.json: one by
    one, since whole descriptions are too long for a CLIP. Raises UserError if the content is not
    that of TREE.
    """
    source, target = find(content, "dataset"), content / "arranged"
    tree = git_tree(source)
    need(tree == TREE, f"the folder 'dataset' of the archive is {tree}, not {TREE}, to git")
    with open(source / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, column in SETS.items():
        folder_of = {row["Class ID (int)"]: row[column] for row in rows}
        for part, lists in LISTS.items():
            for of in lists:
                for line in (source / f"{of}.txt").read_text("utf-8").splitlines():
                    image, label, _ = line.split(", ")
                    folder = target / name / part / folder_of[label]
                    folder.mkdir(parents=True, exist_ok=True)
                    _link(source / image, folder / f"{of}_{Path(image).name}")
        sentences: dict[str, list[str]] = {}
        for row in rows:
            text = source / row["Product Description Path (str)"].lstrip("/")
            said = re.split(r"(?<=[.!]) ", " ".join(text.read_text("utf-8").split()))
            thing = row["Class Name (str)"].replace("-", " ")
            own = [x if thing.lower() in x.lower() else f"{thing}: {x}" for x in said if x]
            sentences.setdefault(row[column].replace("-", " "), []).extend(own)
        (target / name / "sentences.json").write_text(json.dumps(sentences, indent=1), "utf-8")
        lines = (f"{folder} {folder.replace('-', ' ')}\n" for folder in dict.fromkeys(
            folder_of.values()
        ))  # fmt: skip
        (target / name / "classnames.txt").write_text("".join(lines), "utf-8")
    return target


def _link(image: Path, target: Path) -> None:
    """Let two names stand for an image, so that two sets take the space of one, if the disk can."""
    try:
        os.link(image, target)
    except OSError:
        shutil.copyfile(image, target)


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
