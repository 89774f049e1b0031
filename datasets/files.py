"""Files as data sets have them: split files, class folders, annotations; and splits made here."""

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
MANY = 100_000  # files, whose names are kept: on a network, listing them takes minutes
SETTLED = 2.0  # seconds after which the time stamp of a folder tells of each further change
SPLIT_SEED = 1  # of a split made here: the same whatever the seed of the run
OWN_SPLIT = (
    f"a split made here by chance (seed {SPLIT_SEED}), not the published one: accuracies are not "
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
        raise UserError(f"The split file '{path}' cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"'{path}' is not a split file (train, val and test, each a list of "
            f"[path, label, class name]): {error!r}"
        ) from None
    if not os.path.isdir(image_dir):
        raise UserError(f"The images of '{path}' belong in '{image_dir}', which is not there")
    check_files(path, parts)
    if "note" in split:
        print(f"Note: '{path}' is {split['note']}")
    return parts


def inside(path):
    """Return `path`.

    Raises:
        ValueError: it leads out of the folder that it starts in.
    """
    if os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise ValueError(f"'{path}' leads out of the folder of the images")
    return path


def write_split(path, image_dir, parts):
    """Write a split that was made here, and say so; without leave to write, a run goes on."""
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
    """Raise UserError when images are missing. One listing per folder beats many look-ups."""
    listings, missing = {}, []
    for item in (item for part in parts for item in part):
        folder, name = os.path.split(item.impath)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            missing.append(item.impath)
    if missing:
        raise UserError(
            f"'{source}' names the image '{missing[0]}', which is not there (missing are "
            f"{len(missing):,} of {sum(map(len, parts)):,}): restore them, or take the list that "
            "belongs to these images"
        )


# ---- class folders


def class_folders(parent):
    """The names of the visible folders in `parent`, sorted.

    Raises:
        UserError: there is no such folder, or a name is not UTF-8: a prompt would lack letters.
    """
    try:
        with os.scandir(parent) as entries:
            found = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise UserError(
            f"The class folders belong in '{parent}', which cannot be read: {error.strerror}"
        ) from None
    for name in found:
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise UserError(
                f"'{parent}' has the class folder '{name}', whose name is not UTF-8: rename it"
            )
    return found


def read_folders(parent, classes, source=None):
    """The images in class folders as a list of Datum, in the order of the classes and file names.

    Args:
        parent: where the folders are.
        classes: folder to class name, in the order of the labels.
        source: the file that gave the names, if no folder may lack one.

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
            f"'{parent}' ({some(unnamed)})"
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
            f"Note: {len(unread):,} files in '{parent}' are images, but of other kinds than are "
            f"read ({', '.join(IMG_EXTENSIONS)}), and left out: {some(unread)}"
        )
    return items


def file_names(parent, folders):
    """The names of the files in each of these folders in `parent`.

    Those of many files are kept in a file beside `parent`, and listed again where a folder has
    changed since.

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
        with contextlib.suppress(OSError):  # without leave to write they are listed again
            write_whole(kept, json.dumps(found))
    return {folder: names for folder, (_, names) in found.items()}


def kept_names(path):
    """Read what `file_names` keeps in a file; nothing where that is missing or damaged."""
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
    """Whether a file is visible and, by its suffix, an image."""
    return not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS)


def is_other_image(name):
    """Whether a file is visible and, by its suffix, an image of a kind that is not read."""
    suffix = os.path.splitext(name)[1].lower()
    return name[0] != "." and suffix in Image.registered_extensions() and not is_image(name)


def some(names, most=5):
    """A list for a sentence, cut when it is long."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_classnames(path, folders=()):
    """Folder to class name, from a file with lines of a folder, a space and a name.

    Args:
        path: the file, as ImageNet's classnames.txt.
        folders: those that there are, to know folders with spaces in their names.

    Raises:
        UserError: the file is missing, or a line has no name, or a folder has two lines.
    """
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}', which names the classes, cannot be read: {error}") from None
    spaced = sorted((f for f in folders if " " in f), key=len, reverse=True)
    classes = {}
    for line in lines:
        first = line.split()[0]
        folder = next((f for f in spaced if line.startswith((f"{f} ", f"{f}\t"))), first)
        name = line[len(folder) :].strip()
        if not name:
            raise UserError(f"'{path}' has no class name behind '{folder}'")
        if folder in classes:
            raise UserError(f"'{path}' has two lines for '{folder}'")
        classes[folder] = name
    return classes


# ---- annotations


def read_lines(path):
    """The lines of a text file that are not blank, without the space around them."""
    lines = read_file(path).decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_table(path, columns):
    """The lines of a text file as lists of `columns` words, of which the last may have spaces.

    Raises:
        UserError: a line has fewer words.
    """
    rows = [line.split(maxsplit=columns - 1) for line in read_lines(path)]
    for row in rows:
        if len(row) < columns:
            raise UserError(
                f"'{path}' has the line '{' '.join(row)}', but every line should have {columns} "
                "words: fetch it again"
            )
    return rows


def read_mat(path, key):
    """A variable of a MATLAB file, as an array with one axis.

    Raises:
        ValueError: the file is broken or has no such variable.
    """
    import numpy as np
    from scipy.io import loadmat  # slow to import, and hardly ever needed

    with open(path, "rb") as file:
        try:
            return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
        except Exception as error:  # the reader raises nearly every type there is
            raise ValueError(f"'{path}': {error!r}") from None


# ---- splits made here


def divide(items):
    """Divide the images of each class by chance: 50% to train on, 20% for validation, the rest.

    A class with two images has one to test on.
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
    """Divide the images of each class by chance: 80% to train on, 20% for validation."""
    train, val = [], []
    for group in shuffled_classes(items):
        n_val = round(len(group) * 0.2)
        val += group[:n_val]
        train += group[n_val:]
    return train, val


def shuffled_classes(items):
    """The images of each class by chance, but in the same order at every call."""
    chance = random.Random(SPLIT_SEED)
    classes: dict[int, list] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return [chance.sample(group, len(group)) for group in classes.values()]
