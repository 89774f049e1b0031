"""The data set of a user's own images: a folder of class folders, or a table."""

import os
from collections import Counter
from operator import attrgetter
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum

from trainers.prompting.errors import UserError, need
from trainers.prompting.images.class_folders import (
    check_parts,
    class_level,
    class_names,
    class_places,
    labelled_folders,
    say_unlabelled,
    some,
)
from trainers.prompting.images.tables import has_several, read_images, read_tagged
from trainers.prompting.storage.features import read_features

from .base import ImageDataset
from .files import read_folders
from .several import SeveralLabels
from .splits import PARTS, SPLIT_SEED, divide, divide_groups, hold_out
from .tags import ABSENT, PRESENT, UNKNOWN, Tagged


@DATASET_REGISTRY.register()
class ImageFolder(ImageDataset):
    """Images in DATASET.ROOT: class folders, or train/, val/ and test/ with class folders in each.

    Without val/, 20% of the images of each class in train/ are held out. Without the three
    folders, the images of each class are divided 50/20/30. The classes are named by their folders,
    with spaces for `_`, or by a classnames.txt (lines of a folder, a space and a name). Their
    subfolders are read, too; with DATASET.CLASSES_AT 2, the class folders are in other folders. A
    folder `unlabelled` is left out.

    DATASET.ROOT may also be a table (`images.tables`), which is divided 50/20/30; images of one
    `group` stay in one part. One with several labels an image is a `LabelTable`.
    """

    upright = True  # by its config; public data sets are read as their published codes do

    @classmethod
    def kind(cls, node):
        """Return the class for images with one label, or several: of a table, or of features."""
        file, table = getattr(node, "FEATURES", ""), Path(os.path.expanduser(node.ROOT))
        several = read_features(file).several if file else has_several(table)
        return LabelTable if several and cls is ImageFolder else cls

    def locate(self, cfg):
        """Return the folder or table that DATASET.ROOT names."""
        root = cfg.DATASET.ROOT
        folder = Path(os.path.expanduser(root)).absolute()
        if not root or not (folder.is_dir() or folder.is_file()):
            raise UserError(
                f"ImageFolder reads the folder or table that --root (DATASET.ROOT) names, but "
                f"'{root}' is not a folder or file"
            )
        return folder

    @classmethod
    def read_as(cls, node, folder):
        """Return what `read` does at the level DATASET.CLASSES_AT."""
        return cls.read(folder, getattr(node, "CLASSES_AT", 0))

    @classmethod
    def read(cls, folder, at=0):
        """Return training, validation and test images, from train/, ... or divided here.

        `at` is the level of the class folders, as for `class_level`.
        """
        if folder.is_file():
            return cls.divide(folder, table_items(folder))
        train = folder / "train"
        if train.is_dir() and labelled_folders(train):  # else `train` may be a class
            return cls.read_parts(folder, at)
        folders = labelled_folders(folder)
        if not folders:
            raise UserError(
                f"'{folder}' has no class folders: put the images of each class into a separate "
                "folder"
            )
        if {name.lower() for name in folders} in ({"train", "test"}, set(PARTS)):
            raise UserError(
                f"'{folder}' has only {', '.join(folders)}: parts are called train, val and test, "
                "and have class folders in them"
            )
        places = class_places(folder, class_level(folder, at))
        classes, source = class_names(folder, [*places])
        return cls.divide(folder, read_folders(folder, classes, source, places))

    @classmethod
    def divide(cls, source, items):
        """Return the lists train, val and test of all images of a folder or table."""
        train, val, test = divide(items)
        if not test:
            raise UserError(
                f"Each class of '{source}' has a single image or group, and so no test image: add "
                "more"
            )
        counts = Counter(item.label for item in train).values()
        print(
            f"Note: '{source}' is divided at random (seed {SPLIT_SEED}): {len(train):,} images for "
            f"training ({min(counts)} to {max(counts)} of a class), {len(val):,} for validation, "
            f"{len(test):,} for testing"
        )
        return train, val, test

    @classmethod
    def read_parts(cls, folder, at=0):
        """Return the lists train, val and test from the folders of these names."""
        if not (folder / "test").is_dir():
            raise UserError(
                f"'{folder}' has train/ but no test/: add test/ with the same class folders (a "
                "val/ may be renamed), or put the class folders into it without train/"
            )
        parts = {part: folder / part for part in PARTS if (folder / part).is_dir()}
        check_parts(folder, PARTS)
        level = class_level(parts["train"], at)
        places = {part: class_places(path, level) for part, path in parts.items()}
        folders = [*places["train"]]
        for part, path in parts.items():
            say_unlabelled(path)
            if odd := set(folders) ^ set(places[part]):
                where = [f"'{x}' is only in {'train' if x in folders else part}/" for x in odd]
                raise UserError(
                    f"train/ and {part}/ of '{folder}' must have the same class folders, but "
                    f"{some(sorted(where))}"
                )
        classes, source = class_names(folder, folders)
        items = {
            part: read_folders(path, classes, source, places[part]) for part, path in parts.items()
        }
        if "val" not in items:
            items["train"], items["val"] = hold_out(items["train"])
            print(f"Note: '{folder}' has no val/: 20% of train/ is held out by chance "
                  f"(seed {SPLIT_SEED})")  # fmt: skip
        return [items[part] for part in PARTS]


class LabelTable(SeveralLabels, ImageFolder):
    """A user's own images with several labels, in a table."""

    rows_of = "ImageFolder"

    @classmethod
    def read(cls, folder, at=0):
        """Return training, validation and test images of a table, divided here."""
        return cls.divide(folder, tagged_items(folder))

    @classmethod
    def divide(cls, source, items):
        """Return the lists train, val and test, with about the same share of each class."""
        parts = divide_groups(
            items, (0.5, 0.2, 0.3), needed=(0, 2), labels_of=present_in, rarest_first=True
        )
        train, val, test = parts
        need(test, f"'{source}' has too few images for training and a test: add more")
        if all(sum(item.label) == 1 and UNKNOWN not in item.label for item in items):
            print(f"Note: each image of '{source}' has one label: call the column `label`")
        counts = f"{len(train):,} images for training, {len(val):,} for validation"
        print(
            f"Note: '{source}' is divided at random (seed {SPLIT_SEED}), rarest classes first: "
            f"{counts}, {len(test):,} for testing"
        )
        return train, val, test


def tagged_items(table):
    """Return the images of a table with several labels as a list of Tagged, by path."""
    rows = sorted(read_tagged(table))
    names = tuple(sorted({name for _, present, unknown in rows for name in present | unknown}))
    items = []
    for row, present, unknown in rows:
        values = dict.fromkeys(present, PRESENT) | dict.fromkeys(unknown, UNKNOWN)
        items.append(Tagged(row.path, tuple(values.get(name, ABSENT) for name in names), names))
        items[-1].group = row.group  # type: ignore[attr-defined]  # as of `table_items`
    return items


def present_in(item):
    """Return the numbers of the classes of an image; -1 if it has none."""
    return [k for k, value in enumerate(item.label) if value == PRESENT] or [-1]


def table_items(table):
    """Return the images of a table as a list of Datum, by class name; raises as `read_images`."""
    rows = sorted(read_images(table), key=attrgetter("label"))
    number = {name: i for i, name in enumerate(dict.fromkeys(row.label for row in rows))}
    items = [Datum(row.path, number[row.label], 0, row.label) for row in rows]
    for item, row in zip(items, rows, strict=True):
        item.group = row.group  # type: ignore[attr-defined]  # of ours, not Dassl's
    return items
