"""Reads and writes split files, and divides images where there is none."""

import json
import os
import random
from collections import Counter, defaultdict
from operator import index
from pathlib import Path

from dassl.data.datasets import Datum

from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.files import write_whole

PARTS = ("train", "val", "test")
SPLIT_SEED = 1  # of a split made here, for any seed of the run
OWN_SPLIT = (
    f"a split made here at random (seed {SPLIT_SEED}), not the published one: accuracies are not "
    "comparable with published ones"
)


# ---- split files


def read_split(path, image_dir):
    """Read a split file of the public format into three lists of Datum: train, val, test."""
    try:
        split = json.loads(Path(path).read_bytes())
        parts = [
            [
                Datum(f"{image_dir}/{image}", index(label), 0, str(name))
                for image, label, name in split[part]
            ]
            for part in PARTS
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"'{path}' is not a split file (train, val and test, each a list of "
            f"[path, label, class name]; {error!r}): download it again"
        ) from None
    check_files(path, parts)
    if "note" in split:
        print(f"Note: '{path}' is {printable(split['note'])}")
    return parts


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

    Of a class with two images, one is for testing. If images have groups, see `divide_groups`.
    """
    if any(map(group_of, items)):
        return divide_groups(items, (0.5, 0.2, 0.3), needed=(0, 2))
    train, val, test = [], [], []
    for of_class in shuffled_classes(items):
        n = len(of_class)
        n_train = max(1, round(n * 0.5))
        n_val = max(0, min(round(n * 0.2), n - n_train - 1))
        train += of_class[:n_train]
        val += of_class[n_train : n_train + n_val]
        test += of_class[n_train + n_val :]
    return train, val, test


def hold_out(items):
    """Divide the images of each class by chance: 80% training, 20% validation.

    If images have groups, see `divide_groups`.
    """
    if any(map(group_of, items)):
        return divide_groups(items, (0.8, 0.2), needed=(0,))
    train, val = [], []
    for of_class in shuffled_classes(items):
        n_val = round(len(of_class) * 0.2)
        val += of_class[:n_val]
        train += of_class[n_val:]
    return train, val


def group_of(item):
    """Return the `group` of an image, such as a patient, a scene or a film, as text.

    None if it has none: no such attribute, or None, an empty text or nan, as in an empty cell.
    """
    group = getattr(item, "group", None)
    return None if group is None or group == "" or group != group else str(group)


def divide_groups(items, shares, needed, labels_of=lambda item: [item.label], rarest_first=False):
    """Divide images by chance into parts with about these shares of each class, by whole groups.

    Groups may have several classes. An image without a group is one by itself. The largest come
    first, or those with the rarest class. Each goes to a part of `needed` that lacks one of its
    classes, else to the part that lacks most of its images.

    Args:
        shares: of the parts; they add up to 1.
        needed: numbers of the parts that should have all classes, the most important first.
        labels_of: returns the labels of an item, of which there may be several.
        rarest_first: True if groups with the rarest class come first (iterative stratification).

    Returns:
        A list of Datum for each part, in the order of the items.
    """
    keys = [group_of(item) or i for i, item in enumerate(items)]
    groups: dict[object, list[int]] = defaultdict(list)  # the label of each image
    for key, item in zip(keys, items, strict=True):
        groups[key] += labels_of(item)
    sizes = Counter(label for labels in groups.values() for label in labels)
    lacking = [{label: share * n for label, n in sizes.items()} for share in shares]
    present: list[set[int]] = [set() for _ in shares]
    part_of = {}
    shuffled = random.Random(SPLIT_SEED).sample([*groups.items()], len(groups))

    def rank(pair):
        return min(sizes[label] for label in pair[1]) if rarest_first else -len(pair[1])

    for key, labels in sorted(shuffled, key=rank):

        def lack(part, labels=labels):
            return sum(lacking[part][label] / sizes[label] for label in labels)

        without = [part for part in needed if not present[part].issuperset(labels)]
        part = part_of[key] = without[0] if without else max(range(len(shares)), key=lack)
        present[part].update(labels)
        for label in labels:
            lacking[part][label] -= 1
    return tuple(
        [item for key, item in zip(keys, items, strict=True) if part_of[key] == part]
        for part in range(len(shares))
    )


def shuffled_classes(items):
    """Return the images of each class, shuffled with a fixed seed."""
    chance = random.Random(SPLIT_SEED)
    classes: dict[int, list] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return [chance.sample(of_class, len(of_class)) for of_class in classes.values()]
