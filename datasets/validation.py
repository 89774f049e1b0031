"""Draws the validation images of a few-shot run."""

import random
import sys

from trainers.prompting.errors import need


def most_validation(node):
    """Return the most validation images of a class, by VALIDATION_SHOTS of cfg.DATASET.

    CoOp has four, but no more than shots; -1 has as many as shots.
    """
    most = (getattr(node, "VALIDATION_SHOTS", 0) or 4, node.NUM_SHOTS)
    return min((n for n in most if n >= 1), default=sys.maxsize)


def held_out(items, shots, most, seed):
    """Draw `most` validation images of each class from training images, for want of others.

    Images in `shots`, those of the run, are left out. The seed has a generator of its own, so that
    no other draw changes.
    """
    drawn = {item.impath for item in shots}
    classes: dict[int, list] = {item.label: [] for item in items}
    for item in items:
        if item.impath not in drawn:
            classes[item.label].append(item)
    for item in items:
        need(
            classes[item.label],
            "DATASET.VALIDATION_SHOTS draws validation images from training images that are "
            f"no shots, but the class '{item.classname}' has none left: take fewer shots "
            "(DATASET.NUM_SHOTS), add images, or set it to 0",
        )
    return few(classes.values(), most, seed if seed >= 0 else None)


def few(classes, most, seed=0):
    """Draw at most `most` items of each class; a seed of None draws anew each time."""
    rng = random.Random(seed)
    return [item for items in classes for item in rng.sample(items, min(most, len(items)))]
