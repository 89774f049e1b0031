"""A collection of images: class folders or a table, and which images must share a fold.

Letters: N images, K classes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..dassl_parts import dassl
from ..embedded import file_sha256
from ..errors import UserError, in_short, need
from ..storage.class_folders import UNLABELLED, class_folders, class_names, is_image, list_images
from ..storage.files import read_json
from ..storage.tables import read_images
from .folds import join

PARTS = ("train", "val", "test")  # folders with class folders in them
# In the output: images to label, how they were picked, and the call with its classes.
NEXT, PICKED, CALL = "next.csv", "picked.json", "call.json"
PER_IMAGE = ("paths", "groups", "digests", "picked")  # lists of a collection
THREADS = 8
# of frames of one series, such as `film 3_0017.jpg`: a name with a number, and another number
SERIES = re.compile(r"(.*\d.*)[-_. ](?:frame|img)?[-_]?\d+\.\w+", re.IGNORECASE)


@dataclass(eq=False)
class Collection:
    """Images with labels, as far as they have some.

    Attributes:
        source: the folder or the table.
        classnames: K names, sorted.
        paths: N files; names: what they are called in texts, relative to `source`.
        labels: (N,), -1 without a label.
        groups: (N,) texts, empty for images without a group.
        digests: N SHA-256 of the files; empty texts for those that cannot be opened.
        picked: (N,), how an image was picked for labelling; empty texts for the others.
    """

    source: Path
    classnames: list[str]
    paths: list[str]
    labels: np.ndarray
    groups: list[str]
    digests: list[str]
    picked: list[str]

    @property
    def names(self) -> list[str]:
        """The paths relative to the folder, or to that of the table."""
        base = self.source if self.source.is_dir() else self.source.parent
        return [os.path.relpath(path, base) for path in self.paths]

    def keep(self, rows: Sequence[int]) -> "Collection":
        """Return the collection with some of its images."""
        lists: dict[str, Any] = {k: [getattr(self, k)[row] for row in rows] for k in PER_IMAGE}
        return replace(self, labels=self.labels[[*rows]], **lists)

    def hash(self) -> str:
        """Return a hash of the contents of all images, and of their labels."""
        lines = sorted(zip(self.digests, self.labels.tolist(), strict=True))
        return hashlib.sha256(json.dumps([self.classnames, lines]).encode()).hexdigest()

    def folds_apart(self) -> np.ndarray:
        """Return the number of the group of each image, (N,).

        Copies, images of one `group`, and series of numbered names in one folder have the same. A
        series is one of several in its folder, so that all images of a class are none.
        """
        found = [SERIES.fullmatch(os.path.basename(path)) for path in self.paths]
        folders = [os.path.dirname(path) for path in self.paths]
        series = [f"{x}/{of[1]}" if of else "" for x, of in zip(folders, found, strict=True)]
        number = Counter(x for x, _ in {*zip(folders, series, strict=True)})  # of those in a folder
        series = [s if number[x] > 1 else "" for s, x in zip(series, folders, strict=True)]
        each = (self.digests, self.groups, series)
        return join(*(np.array([x or f"/{i}" for i, x in enumerate(texts)]) for texts in each))


def read_collection(
    source: Path, classnames: Sequence[str] = (), keep_test: bool = False
) -> Collection:
    """Return the images of a folder or table; an `unlabelled` folder has those without labels.

    Args:
        source: class folders, `train/`, `val/` and `test/` with class folders, or a table.
        classnames: of classes that may have no image.
        keep_test: leave the images in `test/` out.

    Raises:
        UserError: there is no such folder or file, it has mistakes or no images, or fewer than two
            classes.
    """
    if source.is_file():
        rows = [(row.path, row.label, row.group) for row in read_images(source, unlabelled=True)]
        known = {*classnames}
    else:
        need(source.is_dir(), f"'{source}' is no folder and no table: give one with images")
        rows, known = _in_folders(source, keep_test)
    names = sorted(known | {*classnames} | {label for _, label, _ in rows} - {""})
    deeper = (x for depth in (3, 4) for x in source.glob("/".join("*" * depth)) if is_image(x.name))
    if not rows:
        found = next(deeper, None)
        fill = f"put some into a folder a class, or into {UNLABELLED}/"
        give = f"give '{found.parents[1]}', if its folders are classes" if found else fill
        raise UserError(f"'{source}' has no images in class folders: {give}")
    need(
        len(names) > 1,
        f"'{source}' has {len(names)} class, '{''.join(names)}', but at least two are compared: "
        "add images of another one (an empty folder, or --classnames, names one without images)",
    )
    number = {name: k for k, name in enumerate(names)} | {"": -1}
    paths = [path for path, _, _ in rows]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = [*pool.map(_digest, paths)]
    labels = np.array([number[label] for _, label, _ in rows])
    groups = [group for _, _, group in rows]
    return Collection(source, names, paths, labels, groups, digests, [""] * len(rows))


def _digest(path: str) -> str:
    return file_sha256(path) if os.path.isfile(path) else ""


def _in_folders(source: Path, keep_test: bool) -> tuple[list[tuple[str, str, str]], set[str]]:
    """Return path, label and group of the images in class folders, and the names of the classes."""
    divided = (source / "train").is_dir() and class_folders(source / "train")
    parts = [source / part for part in PARTS if (source / part).is_dir()] if divided else [source]
    rows, known = [], set()
    for part in parts:
        if keep_test and divided and part.name == "test":
            continue
        folders = [name for name in class_folders(part) if name != UNLABELLED]
        classes = class_names(source, folders)[0] if folders else {}
        known |= {*classes.values()}
        filled = {
            x: name for x, name in classes.items() if any(map(is_image, os.listdir(part / x)))
        }
        rows += [(path, name, "") for path, _, name in list_images(part, filled)] if filled else []
    free = sorted(path for path in (source / UNLABELLED).rglob("*") if is_image(path.name))
    return rows + [(os.fspath(path), "", "") for path in free], known


def read_picks(collection: Collection, output: Path) -> Collection:
    """Return the collection with the labels of `next.csv` of an earlier call, and with its picks.

    Raises:
        UserError: the table has mistakes, or another label than the collection.
    """
    picks = output / PICKED
    how = read_json(picks, "delete it, and picks count as chance") if picks.exists() else {}
    collection.picked = [str(how.get(digest, "")) for digest in collection.digests]
    table = output / NEXT
    given = read_images(table, unlabelled=True, moved=True) if table.exists() else []
    row = {os.path.normpath(path): i for i, path in enumerate(collection.paths)}
    names, labels = collection.classnames, collection.labels
    for entry in (entry for entry in given if entry.label):
        where, i = f"'{table}', line {entry.line}: ", row.get(entry.path)
        need(i is not None, f"{where}the image is not in '{collection.source}': remove the line")
        need(
            entry.label in names,
            f"{where}there is no class '{entry.label}': correct it, or name it with --classnames",
        )
        k = names.index(entry.label)
        need(
            labels[i] in (-1, k),
            f"{where}'{entry.label}' is '{names[labels[i]]}' in '{collection.source}': keep one",
        )
        labels[i] = k
    return collection


def read_image(path: str) -> Any:
    """Return an RGB image as runs read it.

    Raises:
        UserError: it cannot be decoded, or is CMYK or of 16 bits, whose colours would be guessed.
    """
    try:
        with Image.open(path) as image:
            of_16_bits = image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
            need(image.mode != "CMYK", "it is CMYK: convert it to RGB")
            need(not of_16_bits, "it has 16 bits: convert it to 8")
        return dassl("utils").read_image(path)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly every type there is
        empty = os.path.isfile(path) and not os.path.getsize(path)
        raise UserError("it is empty" if empty else in_short(error)) from None
