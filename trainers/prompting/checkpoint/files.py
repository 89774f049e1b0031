"""The files of checkpoints: read, found, named and removed."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..dassl_parts import dassl_utils
from ..errors import UserError, need
from ..storage.files import damaged_part


def read_checkpoint(path: str, kind: type = dict) -> Any:
    """Read a checkpoint, after comparing its bytes with its checksums.

    Files of old versions of PyTorch have no checksums; these are read unchecked. `kind` is `object`
    if the file may hold something else than a dict.
    """
    damaged = damaged_part(path) if os.path.isfile(path) else None
    if not damaged:
        with suppress(Exception):  # it is of public code, or Dassl says why it is not read
            content = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(content, kind):
                return content
    utils = dassl_utils()
    remedy = "copy it again, take another epoch, or train again"
    if hasattr(utils, "load_content"):  # of dassl-lite, which compares them itself
        return (utils.load_checkpoint if kind is dict else utils.load_content)(path, remedy)
    need(
        not damaged,
        f"The checkpoint '{path}' is broken ('{damaged}' has changed since it was "
        f"written): {remedy}",
    )
    return utils.load_checkpoint(path)


def checkpoint_file(folder: str, epoch: int) -> str:
    """Return the path of an epoch's checkpoint, counted from 1, in the folder of a model."""
    return os.path.join(folder, f"model.pth.tar-{epoch}")


def saved_epochs(folder: str) -> list[int]:
    """Return the epochs with a checkpoint in a folder, ascending; none if the folder is missing."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    epochs = [n.removeprefix("model.pth.tar-") for n in names if n.startswith("model.pth.tar-")]
    return sorted(int(epoch) for epoch in epochs if epoch.isdecimal())


def remove_earlier(folder: str, epoch: int, every: int) -> None:
    """Remove checkpoints of earlier epochs, but every so many; 0 keeps none."""
    for earlier in saved_epochs(folder):  # all of them: a killed run may have left one
        if earlier < epoch and not (every > 0 and earlier % every == 0):
            os.remove(checkpoint_file(folder, earlier))


def marked_epoch(folder: str) -> int:
    """Return the epoch from which a run would resume, by the mark in its folder; 0 without one."""
    try:
        with open(os.path.join(folder, "checkpoint"), encoding="utf-8") as mark:
            epoch = mark.readline(100).strip().removeprefix("model.pth.tar-")
    except (OSError, ValueError):
        return 0
    return int(epoch) if epoch.isdecimal() else 0


def broken_checkpoint(folder: str, epoch: int, what: str) -> UserError:
    """Return the error about a checkpoint that a run cannot resume from, with the remedies."""
    mark = os.path.join(folder, "checkpoint")
    remedy = f"delete '{mark}' to train from the start"
    others = [other for other in saved_epochs(folder) if other != epoch]
    if others:
        name = os.path.basename(checkpoint_file(folder, others[-1]))
        remedy += f", or write '{name}' into it to resume from there"
    return UserError(f"The checkpoint '{checkpoint_file(folder, epoch)}' {what}: {remedy}")


def find_checkpoint(folder: str, epoch: int | None) -> str:
    """Return the path of an epoch's checkpoint; None takes model-best.pth.tar, or the last one."""
    path = os.path.join(folder, "model-best.pth.tar")
    if epoch is not None:
        path = checkpoint_file(folder, epoch)
    elif not os.path.exists(path):
        epochs = saved_epochs(folder)
        path = checkpoint_file(folder, epochs[-1]) if epochs else path
    if not os.path.exists(path):
        raise UserError(
            f"There is no checkpoint '{path}': give --model-dir the output folder of a run of "
            "this method, and --load-epoch an epoch that it saved"
        )
    return path


def only_model(place: str | os.PathLike[str], below: str, what: str, remedy: str) -> str:
    """Return the one folder with checkpoints in a place.

    `below` is where they may be, the beginning of a pattern; `what` and `remedy` are the beginning
    and the end of the error.
    """
    is_there = os.path.isdir(place)  # not with a name that is too long
    found = Path(place).glob(f"{below}model*.pth.tar*") if is_there else ()
    folders = sorted({path.parent for path in found})
    has = "it has several models" if folders else "it has no checkpoint (model.pth.tar-EPOCH)"
    has = has if is_there else "there is no such folder"
    need(len(folders) == 1, f"{what} holds no run to load, as {has}: {remedy}")
    return os.fspath(folders[0])
