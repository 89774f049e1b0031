"""Checks the labels of a data set, and keeps its base or new classes."""

from itertools import chain

from dassl.data.datasets import Datum

from trainers.prompting.errors import UserError

from . import noise


def check_one_label(dataset, train, val, test):
    """Check that every label up to the highest has one name, given by training images.

    If validation or test images have another name, a note is printed: these names are not used.
    """
    first: dict[int, Datum] = {}  # label to an image of it
    for item in train:
        seen = first.setdefault(item.label, item)
        if item.classname != seen.classname:
            raise UserError(
                f"{dataset}: label {item.label} is called both '{seen.classname}' and "
                f"'{item.classname}' (of '{seen.impath}' and '{item.impath}'): give it one name"
            )
    named = {label for label, item in first.items() if item.classname.strip()}
    other = []
    for item in chain(val, test):
        name = first.setdefault(item.label, item).classname
        if item.classname not in ("", name):
            other.append(item)
    if other:
        print(
            f"Note: {dataset} gives {len(other):,} images for validation or testing another name "
            f"than training images with their label, the first being '{other[0].impath}', a "
            f"'{other[0].classname}' and not '{first[other[0].label].classname}': are the labels "
            "right?"
        )
    if odd := {*range(len(first))} ^ named:
        raise UserError(
            f"{dataset}: label {min(odd, key=str)} has no training images with a class name, or no "
            "place: number the classes from 0 without a gap, and train on images of each"
        )


def subsample_classes(*sources, subset="all"):
    """Keep the base classes (the first half, rounded up) or the new ones, relabelled from 0.

    Of the lists of Datum, the first determines the set of labels; `subset` is `all`, `base` or
    `new`.
    """
    if subset == "all":
        return sources
    if subset not in ("base", "new"):
        raise UserError(f"SUBSAMPLE_CLASSES is all, base or new, not '{subset}'")
    labels = sorted({item.label for item in sources[0]})
    half = (len(labels) + 1) // 2
    chosen = labels[:half] if subset == "base" else labels[half:]
    new_label = {label: i for i, label in enumerate(chosen)}
    return tuple(
        [
            noise.relabel(item, new_label[item.label], item.classname)
            for item in source
            if item.label in new_label
        ]
        for source in sources
    )
