"""Checks of the data before a method is built for them."""

import hashlib
import os

from . import ranks
from .errors import UserError


def check_classes(classnames: list[str]) -> list[str]:
    """Return the names.

    Raises:
        UserError: there are fewer than two.
    """
    if len(classnames) < 2:
        raise UserError(
            f"The data set has {len(classnames)} class: at least 2 are needed to tell apart"
        )
    return classnames


def check_shared(data, root: str) -> None:
    """Check what the ranks of one run are to share.

    Args:
        data: a data set of Dassl.
        root: its folder, for the message.

    Raises:
        UserError: there are too many ranks, or they see different data.
    """
    W = ranks.count()
    if len(data.classnames) < W:
        raise UserError(
            f"There are {W} ranks but {len(data.classnames)} classes to share: start at most "
            f"{len(data.classnames)}"
        )
    for name in ("train_x", "val", "test"):
        seen = [
            (os.path.basename(image.impath), image.label, image.classname)
            for image in getattr(data, name) or ()
        ]
        digest = hashlib.sha256(repr(seen).encode()).hexdigest()[:8]
        remedy = f"give all nodes the same DATASET.ROOT (now '{root}')"
        ranks.check_same(f"as {name}", f"{len(seen)} images ({digest})", remedy)
