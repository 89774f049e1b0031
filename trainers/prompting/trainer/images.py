"""The images of a run as its checkpoints keep them, and their comparison with those of another.

A data set may say how it is divided (`division`: texts by part and class) and what its files hold
(`keys`: numbers by path, equal for files of equal content). Those of other code do not.
"""

from collections.abc import Iterable, Mapping

import torch

from ..errors import UserError
from ..storage.checkpoints import broken_checkpoint
from ..storage.state import is_settings

MOST = 3  # parts of a division in a message


def images_of(dataset, unlabelled: bool, earlier: Iterable = ()) -> dict:
    """Return what a checkpoint keeps of the images of a training.

    Args:
        dataset: of the run.
        unlabelled: True if it trains on the images `train_u`.
        earlier: what this returned for trainings on which it builds; others than that are left out.

    Returns:
        `division`, a mapping of texts or None, and `trained_on`, the keys of training images
        (n,), int64; n is 0 if the data set has none.
    """
    keys = getattr(dataset, "keys", {})
    items = (dataset.train_u if unlabelled else None) or dataset.train_x
    trained = {keys[item.impath] for item in items if item.impath in keys}
    for images in filter(None, map(_images, ({"images": kept} for kept in earlier))):
        trained |= {*images["trained_on"].tolist()}
    return {
        "division": getattr(dataset, "division", None),
        "trained_on": torch.tensor(sorted(trained), dtype=torch.int64),
    }


def check_same_images(checkpoint: Mapping, dataset, folder: str) -> None:
    """Refuse to resume a run with images, or a division of them, other than it began with.

    A checkpoint of other code, without settings, says nothing of its images.

    Raises:
        UserError: names parts and classes that differ, or the checkpoint's images are broken.
    """
    if checkpoint.get("settings") is None:
        return
    then, now = _images(checkpoint), getattr(dataset, "division", None)
    if then is None:
        raise broken_checkpoint(folder, checkpoint["epoch"], "has no valid images")
    then = then["division"]
    if then is None or now is None or then == now:
        return
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    texts = [f"{n}: {then.get(n, 'none')}, now {now.get(n, 'none')}" for n in names[:MOST]]
    more = [f"and {len(names) - MOST} more"] * (len(names) > MOST)
    raise UserError(
        f"The run in '{folder}' was begun with other images, or with another division of them "
        f"({'; '.join(texts + more)}): restore them, give this run another --output-dir, or delete "
        "that folder to train again"
    )


def check_unseen(checkpoint: Mapping, dataset, split: str, source: str) -> None:
    """Refuse to evaluate what was trained on images that are now for evaluation.

    Args:
        checkpoint: of the training.
        dataset: of this run.
        split: that is evaluated, `test` or `val`.
        source: of the checkpoint, for the message.

    Raises:
        UserError: gives the number of such images, and one of them.
    """
    keys = getattr(dataset, "keys", {})
    images = _images(checkpoint)
    if not keys or images is None:
        return
    trained = {*images["trained_on"].tolist()}
    items = (dataset.val if split == "val" else dataset.test) or []
    seen = [item.impath for item in items if keys.get(item.impath) in trained]
    if seen:
        raise UserError(
            f"{len(seen):,} of the {len(items):,} {split} images are training images of "
            f"'{source}', such as '{seen[0]}': its folder may have been divided anew, so restore "
            "the images of the training, or evaluate on others"
        )


def _images(checkpoint: Mapping) -> dict | None:
    """Return what `images_of` has put into a checkpoint; None if that is missing or broken."""
    images = checkpoint.get("images")
    if not isinstance(images, dict) or images.keys() != {"division", "trained_on"}:
        return None
    divided, trained = images["division"], images["trained_on"]
    valid = divided is None or is_settings(divided)  # both are texts by name
    return images if valid and torch.is_tensor(trained) and trained.dtype == torch.int64 else None
