"""Images with several labels: of each class 1 (present), 0 (absent) or -1 (unknown).

Letters: n images, K classes.
"""

import numpy as np
from dassl.data.datasets import Datum

from . import noise

PRESENT, ABSENT, UNKNOWN = 1, 0, -1


class Tagged(Datum):
    """An image with a tuple of K labels, and the names of all K classes.

    Its `classname` has those of the present classes.
    """

    def __init__(self, impath, label, names):
        super().__init__(impath, label, 0, "; ".join(pick(names, label)))
        self.names = names

    @property
    def places(self):
        """The classes that a division of the data set counts it in."""
        known = {PRESENT: "", UNKNOWN: ", unknown"}
        found = ((k, x) for k, x in enumerate(self.label) if x in known)
        return [(k, self.names[k] + known[x]) for k, x in found] or [("none", "")]


def with_labels(items, labels):
    """Return images with other labels (n, K)."""
    rows = zip(items, labels.tolist(), strict=True)
    return [relabel(item, tuple(label)) for item, label in rows]


def relabel(item, label, names=None):
    """Return a copy of an image with other labels, of other classes if `names` are given.

    It has all that a subclass of Datum adds.
    """
    names = item.names if names is None else names
    other = noise.relabel(item, label, "; ".join(pick(names, label)))
    other.names = names
    return other


def table(items):
    """Return the labels (n, K) of images, int8."""
    return np.array([item.label for item in items], dtype=np.int8)


def pick(names, label):
    """Return the names of the present classes."""
    return [name for name, value in zip(names, label, strict=False) if value == PRESENT]


def draw(items, n, rng):
    """Draw images until each class is present in n of them, the rarest class first.

    An image counts for all its classes; a class with fewer images gives all. The images are in
    their own order.
    """
    if not items:
        return []
    present = table(items) == PRESENT
    have, taken = np.zeros(present.shape[1], int), np.zeros(len(items), bool)
    for k in np.argsort(present.sum(0), kind="stable"):
        free = np.flatnonzero(present[:, k] & ~taken).tolist()
        for i in rng.sample(free, min(len(free), max(0, n - int(have[k])))):
            taken[i] = True
            have += present[i]
    return [item for item, is_taken in zip(items, taken, strict=True) if is_taken]
