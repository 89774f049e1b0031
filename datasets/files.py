"""Reads the files of data sets (split files, class folders, annotations), and makes splits."""

import contextlib
import json
import os
import random
import time
from operator import index
from pathlib import Path

from dassl.data.datasets import Datum
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_file, write_whole

PARTS = ("train", "val", "test")
MANY = 100_000  # files from which names are cached: on a network, listing them takes minutes
SETTLED = 2.0  # seconds; a folder changed later than this gets another time stamp
SPLIT_SEED = 1  # of a split made here, for any seed of the run
OWN_SPLIT = (
    f"a split made here at random (seed {SPLIT_SEED}), not the published one: accuracies are not "
    "comparable with published ones"
)


# ---- split files


def read_split(path, image_dir):
    """Read a split file of the public format into three lists of Datum: train, val, test.

    Raises:
        UserError: the file is missing or is not of that format, or an image is missing.
    """
    try:
        split = json.loads(read_file(path).decode("utf-8-sig"))
        parts = [
            [
                Datum(
                    f"{image_dir}/{inside(image)}",
                    index(label),
                    0,
                    "" if name is None else str(name),
                )
                for image, label, name in split[part]
            ]
            for part in PARTS
        ]
    except OSError as error:
        raise UserError(
            f"The split file '{path}' cannot be read ({error.strerror}): restore it"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"'{path}' is not a split file (train, val and test, each a list of "
            f"[path, label, class name]; {error!r}): download it again"
        ) from None
    if not os.path.isdir(image_dir):
        raise UserError(
            f"The images of '{path}' belong in '{image_dir}', which does not exist: put them there"
        )
    check_files(path, parts)
    if "note" in split:
        print(f"Note: '{path}' is {split['note']}")
    return parts


def inside(path):
    """Return a relative path, after checking it.

    Raises:
        ValueError: it leads out of its folder.
    """
    if os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise ValueError(f"'{path}' leads out of the folder of the images")
    return path


def write_split(path, image_dir, parts):
    """Write a split that was made here, and print a note; if that is refused, the run continues."""
    split = {
        part: [[os.path.relpath(x.impath, image_dir), x.label, x.classname] for x in items]
        for part, items in zip(PARTS, parts, strict=True)
    }
    try:
        write_whole(path, json.dumps(split | {"note": OWN_SPLIT}))
    except OSError as error:
        print(
            f"Note: '{path}' is missing and cannot be written ({error.strerror}); this run has "
            f"{OWN_SPLIT}"
        )
        return
    print(f"Note: '{path}' was missing and is now {OWN_SPLIT}")


def check_files(source, parts):
    """Raise a UserError if images are missing; each folder is listed once, which is fast."""
    listings, missing = {}, []
    for item in (item for part in parts for item in part):
        folder, name = os.path.split(item.impath)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            missing.append(item.impath)
    if missing:
        raise UserError(
            f"'{source}' names the image '{missing[0]}', which does not exist ("
            f"{len(missing):,} of {sum(map(len, parts)):,} images are missing): restore them, or "
            "use the list that belongs to these images"
        )


# ---- class folders


def class_folders(parent):
    """Return the names of the visible folders in `parent`, sorted.

    Raises:
        UserError: `parent` is missing, or a name is not UTF-8 and cannot be part of a prompt.
    """
    try:
        with os.scandir(parent) as entries:
            found = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise UserError(
            f"The class folders belong in '{parent}', which cannot be read ({error.strerror}): put "
            "them there"
        ) from None
    for name in found:
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise UserError(
                f"'{parent}' has the class folder '{name}', whose name is not UTF-8: rename it"
            )
    return found


def read_folders(parent, classes, source=None):
    """Return the images in class folders as a list of Datum, ordered by class and file name.

    Args:
        parent: the folder of the class folders.
        classes: folder -> class name, in the order of the labels.
        source: the file with the class names, if it must name every folder.

    Raises:
        UserError: a folder is missing, has no name or has no images.
    """
    found = class_folders(parent)
    if missing := sorted(classes.keys() - found):
        raise UserError(
            f"'{parent}' lacks {len(missing):,} of its {len(classes):,} class folders "
            f"({some(missing)}): restore them, for without them the other labels would shift"
        )
    if source and (unnamed := [folder for folder in found if folder not in classes]):
        raise UserError(
            f"'{source}' has no name for {len(unnamed):,} of the {len(found):,} class folders in "
            f"'{parent}' ({some(unnamed)}): add a line for each"
        )
    items, unread = [], []
    listing = file_names(parent, classes)
    for label, (folder, classname) in enumerate(classes.items()):
        path, files = os.path.join(parent, folder), listing[folder]
        names = sorted(filter(is_image, files))
        unread += [name for name in files if is_other_image(name)]
        if not names:
            remedy = "fill it" if source else "fill or remove it"
            raise UserError(f"The class folder '{path}' has no images: {remedy}")
        items += [Datum(f"{path}/{name}", label, 0, classname) for name in names]
    if unread:
        print(
            f"Note: {len(unread):,} images in '{parent}' are left out, as their formats are not "
            f"read (only {', '.join(IMG_EXTENSIONS)} are): {some(unread)}"
        )
    return items


def file_names(parent, folders):
    """Return the names of the files in each of the given folders of `parent`.

    If there are many files, their names are cached in `PARENT.files.json`; folders that have
    changed since are listed again.

    Raises:
        UserError: a folder cannot be read.
    """
    kept = Path(f"{parent}.files.json")
    known = kept_names(kept)
    found, listed = {}, 0
    for folder in tqdm(folders, str(parent), unit=" folders", mininterval=2, delay=3):
        path = os.path.join(parent, folder)
        try:
            changed = os.stat(path).st_mtime
            found[folder] = known.get(folder)
            if not found[folder] or found[folder][0] != changed:
                settled = time.time() - changed > SETTLED
                found[folder] = [changed if settled else None, os.listdir(path)]
                listed += 1
        except OSError as error:
            raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    if listed and sum(len(names) for _, names in found.values()) >= MANY:
        with contextlib.suppress(OSError):  # without permission to write, they are listed each time
            write_whole(kept, json.dumps(found))
    return {folder: names for folder, (_, names) in found.items()}


def kept_names(path):
    """Read the names that `file_names` has cached; none if the file is missing or damaged."""
    try:
        known = json.loads(read_file(path))
        return {
            folder: [changed, names]
            for folder, (changed, names) in known.items()
            if all(isinstance(name, str) for name in names)
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def is_image(name):
    """Return True for a visible file with the suffix of an image."""
    return not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS)


def is_other_image(name):
    """Return True for a visible file with the suffix of an image format that is not read."""
    suffix = os.path.splitext(name)[1].lower()
    return name[0] != "." and suffix in Image.registered_extensions() and not is_image(name)


def some(names, most=5):
    """Return names as a list in a sentence, shortened after `most`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_classnames(path, folders=()):
    """Read the class name of each folder, from a file with lines of a folder, a space and a name.

    Args:
        path: the file, such as ImageNet's classnames.txt.
        folders: existing folders, so that names with spaces are recognised.

    Raises:
        UserError: the file is missing, a line has no name, or a folder has two lines.
    """
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"'{path}', which names the classes, cannot be read ({reason}): restore it"
        ) from None
    spaced = sorted((f for f in folders if " " in f), key=len, reverse=True)
    classes = {}
    for line in lines:
        first = line.split()[0]
        folder = next((f for f in spaced if line.startswith((f"{f} ", f"{f}\t"))), first)
        name = line[len(folder) :].strip()
        if not name:
            raise UserError(f"'{path}' has no class name after '{folder}': add one")
        if folder in classes:
            raise UserError(f"'{path}' has two lines for '{folder}': remove one")
        classes[folder] = name
    return classes


# ---- annotations


def read_lines(path):
    """Return the lines of a text file that are not blank, stripped."""
    lines = read_file(path).decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_table(path, columns):
    """Return the lines of a text file as lists of `columns` words; the last may contain spaces.

    Raises:
        UserError: a line has fewer words.
    """
    rows = [line.split(maxsplit=columns - 1) for line in read_lines(path)]
    for row in rows:
        if len(row) < columns:
            raise UserError(
                f"'{path}' has the line '{' '.join(row)}', but every line should have {columns} "
                "words: download it again"
            )
    return rows


def read_mat(path, key):
    """Return a variable of a MATLAB file, as an array with one axis.

    Raises:
        ValueError: the file is broken or has no such variable.
    """
    import numpy as np
    from scipy.io import loadmat  # slow to import, and rarely needed

    with open(path, "rb") as file:
        try:
            return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
        except Exception as error:  # the reader raises errors of many types
            raise ValueError(f"'{path}': {error!r}") from None


# ---- splits made here


def divide(items):
    """Divide the images of each class by chance: 50% training, 20% validation, 30% test.

    Of a class with two images, one is for testing.
    """
    train, val, test = [], [], []
    for group in shuffled_classes(items):
        n = len(group)
        n_train = max(1, round(n * 0.5))
        n_val = max(0, min(round(n * 0.2), n - n_train - 1))
        train += group[:n_train]
        val += group[n_train : n_train + n_val]
        test += group[n_train + n_val :]
    return train, val, test


def hold_out(items):
    """Divide the images of each class by chance: 80% training, 20% validation."""
    train, val = [], []
    for group in shuffled_classes(items):
        n_val = round(len(group) * 0.2)
        val += group[:n_val]
        train += group[n_val:]
    return train, val


def shuffled_classes(items):
    """Return the images of each class, shuffled with a fixed seed."""
    chance = random.Random(SPLIT_SEED)
    classes: dict[int, list] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return [chance.sample(group, len(group)) for group in classes.values()]
