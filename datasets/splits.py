"""Reads and writes split files, and divides images where there is none."""

import json
import os
import random
from collections import Counter
from operator import index

from dassl.data.datasets import Datum

from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.files import read_file, write_whole

PARTS = ("train", "val", "test")
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
        split = json.loads(read_file(path).decode("utf-8-sig"), object_pairs_hook=each_once)
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
        print(f"Note: '{path}' is {printable(split['note'])}")
    return parts


def each_once(pairs):
    """Return the pairs of a JSON object as a dict.

    Raises:
        ValueError: it has a key twice, of which a dict would keep the last.
    """
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"it has '{twice[0]}' twice")
    return dict(pairs)


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
