"""A collection of images: class folders or a table, and which images must share a fold.

Letters: N images, K classes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..embedded import file_sha256
from ..errors import need, printable
from ..images.class_folders import (
    PARTS,
    check_class,
    check_parts,
    class_level,
    class_names,
    class_places,
    labelled_folders,
    list_images,
    name_key,
    say_unlabelled,
)
from ..images.tables import has_several, read_images, read_tagged
from .folds import join

PER_IMAGE = ("paths", "groups", "digests")  # lists of a collection
THREADS = 8
# of frames of one series, such as `film 3_0017.jpg`: a name with a number, and another number
SERIES = re.compile(r"(.*\d.*)[-_. ](?:frame|img)?[-_]?\d+\.\w+", re.IGNORECASE)


@dataclass(eq=False)
class Collection:
    """Images with labels.

    Attributes:
        source: the folder or the table.
        classnames: K names, sorted.
        paths: N files; names: what they are called in texts, relative to `source`.
        labels: (N,); or (N, K), with several: 1, 0, and -1 where unknown.
        groups: (N,) texts, empty for images without a group.
        digests: N SHA-256 of the files; empty texts for those that cannot be opened.
        several: True if an image has several labels.
        classes_at: as for `class_level`.
        left_out: (name, why) of images that are not among these, or do not count.
    """

    source: Path
    classnames: list[str]
    paths: list[str]
    labels: np.ndarray
    groups: list[str]
    digests: list[str]
    classes_at: int = 0
    several: bool = False
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The paths relative to the folder, or to that of the table."""
        base = self.source if self.source.is_dir() else self.source.parent
        return [os.path.relpath(path, base) for path in self.paths]

    def keep(self, rows: Sequence[int]) -> "Collection":
        """Return the collection with some of its images."""
        lists: dict[str, Any] = {k: [getattr(self, k)[row] for row in rows] for k in PER_IMAGE}
        return replace(self, labels=self.labels[[*rows]], **lists)

    def of_classes(self, kept: np.ndarray) -> "Collection":
        """Return the collection with the classes of these numbers, which all its images have."""
        names = [self.classnames[k] for k in kept]
        return replace(self, classnames=names, labels=np.searchsorted(kept, self.labels))

    def copies(self) -> list[tuple[int, int]]:
        """Return the first image and a copy of it, in pairs."""
        first: dict[str, int] = {}
        pairs = [(first.setdefault(x, i), i) for i, x in enumerate(self.digests)]
        return [(i, j) for i, j in pairs if i < j]

    def contradictions(self) -> list[tuple[str, str]]:
        """Return the names of copies with two labels, in pairs."""
        names, y = self.names, self.labels
        return [(names[i], names[j]) for i, j in self.copies() if np.any(y[i] != y[j])]

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


def read_collection(source: Path, keep_test: bool = False, classes_at: int = 0) -> Collection:
    """Return the images of a folder or table; a folder `unlabelled` is left out.

    Args:
        source: class folders, `train/`, `val/` and `test/` with class folders, or a table.
        keep_test: leave the images in `test/` out.
        classes_at: the level of the class folders, 1 or 2; 0 asks if both may be meant.
    """
    need(
        not (source.is_file() and (keep_test or classes_at)),
        f"--keep-test and --classes-at are for folders, and '{source}' is a table: leave them out",
    )
    if source.is_file() and has_several(source):
        return _read_tags(source)
    left_out: list[tuple[str, str]] = []
    if source.is_file():
        rows = [(row.path, row.label, row.group) for row in read_images(source)]
        given = [(label, "the table") for _, label, _ in rows]
    else:
        need(source.is_dir(), f"'{source}' is no folder and no table: give one with images")
        rows, folders = _in_folders(source, keep_test, classes_at, left_out)
        given = [(name, f"the folder '{printable(x)}'") for x, name in sorted(folders)]
    names = _check_names(given)
    fill = "put some into a folder for each class"
    need(rows, f"'{source}' has no images in class folders: {fill}")
    need(
        len(names) > 1,
        f"'{source}' has {len(names)} class, '{''.join(names)}', but at least two are compared: "
        "add images of another one (an empty folder names one without images)",
    )
    number = {name: k for k, name in enumerate(names)}
    paths = [path for path, _, _ in rows]
    labels = np.array([number[label] for _, label, _ in rows])
    groups = [group for _, _, group in rows]
    left_out = [(os.path.relpath(path, source), why) for path, why in left_out]
    digests = _digests(paths)
    return Collection(source, names, paths, labels, groups, digests, classes_at, False, left_out)


def _read_tags(source: Path) -> Collection:
    """Return the images of a table with several labels an image."""
    rows = read_tagged(source)
    names = _check_names((x, "the table") for _, *sets in rows for some in sets for x in some)
    need(
        len(names) > 1,
        f"'{source}' has {len(names) or 'no'} label, but at least two are compared",
    )
    labels = np.zeros((len(rows), len(names)), np.int8)
    number = {name: k for k, name in enumerate(names)}
    for i, (_, present, unknown) in enumerate(rows):
        labels[i, [number[name] for name in present]] = 1
        labels[i, [number[name] for name in unknown]] = -1
    paths = [row.path for row, _, _ in rows]
    groups = [row.group for row, _, _ in rows]
    return Collection(source, names, paths, labels, groups, _digests(paths), several=True)


def _check_names(given: Iterable[tuple[str, str]]) -> list[str]:
    """Return the sorted names of classes, given each name and where it stands."""
    seen: dict[str, tuple[str, str]] = {}
    for name, where in given:
        check_class(name, where)
        one, place = seen.setdefault(name_key(name), (name, where))
        need(
            one == name and (where == place or "folder" not in where),
            f"{place} ('{one}') and {where} ('{name}') seem to name one class: give both one name "
            "in one place, or names that differ in letters",
        )
    return sorted(name for name, _ in seen.values())


def _digests(paths: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [*pool.map(_digest, paths)]


def _digest(path: str) -> str:
    return file_sha256(path) if os.path.isfile(path) else ""


def _in_folders(
    source: Path, keep_test: bool, at: int, left_out: list[tuple[str, str]]
) -> tuple[list[tuple[str, str, str]], set[tuple[str, str]]]:
    """Return path, label and group of the images in class folders, and (folder, class) of each."""
    divided = (source / "train").is_dir() and labelled_folders(source / "train")
    if divided:
        check_parts(source, PARTS)
    parts = [source / part for part in PARTS if (source / part).is_dir()] if divided else [source]
    rows, known = [], set()
    for part in parts:
        if keep_test and divided and part.name == "test":
            continue
        say_unlabelled(part)
        places = class_places(part, at := class_level(part, at))
        classes = class_names(source, [*places])[0] if places else {}
        known |= {*classes.items()}
        found = list_images(part, classes, None, places, left_out)
        rows += [(path, name, "") for path, _, name in found]
    return rows, known
