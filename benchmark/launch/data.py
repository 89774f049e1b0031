"""The data that are asked for, and whether a record is of these."""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout

from trainers.prompting.errors import UserError, printable

from ..protocols.base import Run
from ..protocols.configs import dataset_name
from ..report.results import used

IMAGES = "ImageFolder"  # the data set that --root itself is


def fingerprint(dataset: str, root: str) -> str | None:
    """As records have it of data that a run has read; None of data that cannot be read here."""
    try:
        from dassl.data.datasets import DATASET_REGISTRY  # with PyTorch

        from datasets import base

        found = DATASET_REGISTRY.get(dataset_name(dataset))
        with redirect_stdout(io.StringIO()):  # a run says the same
            return base.fingerprint(*found.look(root))
    except (UserError, OSError, ModuleNotFoundError):
        return None


def other_data(
    run: Run, result: dict, root: str | None, now: Callable[[str, str], str | None]
) -> str | None:
    """Say how the data of a result differ from those that are asked for; None if they do not.

    The fingerprint decides, wherever the data are. Without one, in a record of an earlier version
    or of data that cannot be read here, the root decides of the user's own images; the other data
    sets are known by their names.

    Args:
        run: that is asked for.
        result: its record.
        root: the folder of the data sets; None takes those of the record.
        now: as `fingerprint`.
    """
    then = used(result.get("config"), "DATASET.ROOT")
    if root is None or not isinstance(then, str):
        return None
    own = dataset_name(run.dataset) == IMAGES
    same_root = os.path.realpath(then) == os.path.realpath(root)
    if same_root and not own:
        return None
    was = result.get("data_fingerprint")
    found = was and now(run.dataset, root)
    if found:
        return None if found == was else f"other classes or files than '{root}' has"
    if own and not same_root:
        return f"the images in '{printable(then)}', not '{root}'"
    return None
