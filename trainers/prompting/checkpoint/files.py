"""Checkpoints: loads parameters by their public names, and finds the files of a run."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..dassl_parts import dassl
from ..errors import UserError
from ..storage.files import damaged_part
from ..storage.values import check_dense


@torch.no_grad()
def load_public_state(
    own: Mapping[str, nn.Parameter],
    state: Mapping[str, torch.Tensor],
    is_ignored: Callable[[str], bool],
    submodule: str,
) -> None:
    """Load parameters, by their public names, from a checkpoint of this project or a public one.

    Names of `state` are as in the whole published model, or as in its `submodule` only;
    `is_ignored` is True for a name without a parameter that may be skipped.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(
            f"The checkpoint's model is a {type(state).__name__} and not tensors by name: take "
            "another checkpoint, or train again"
        )
    tensors = {}
    for name, value in state.items():
        full = name if name in own else f"{submodule}.{name}"
        if full in own:
            tensors[full] = value
        elif not is_ignored(name):
            raise UserError(
                f"The checkpoint has '{name}', which this method lacks: it is of another "
                "method, or of deeper prompts"
            )
    for name, parameter in own.items():
        if name not in tensors:
            raise UserError(
                f"The checkpoint lacks '{name}': it is of another method, or of shallower prompts"
            )
        value = tensors[name]
        check_dense(name, value, trained=True)
        expected, given = tuple(parameter.shape), tuple(value.shape)
        if not parameter.numel():  # its length was not known before training
            given, expected = given[1:], expected[1:]
        if _trim(given) != _trim(expected):  # a single prompt may lack its leading axis
            raise UserError(
                f"The checkpoint's '{name}' has shape {given} but the configuration asks for "
                f"{expected}: make the settings, the classes and the backbone those of the trained "
                "model"
            )
        if not torch.isfinite(value.to(parameter.dtype)).all():
            raise UserError(
                f"The checkpoint's '{name}' holds numbers that are not finite: its training "
                "failed, so take an earlier epoch or train again"
            )
    for name, parameter in own.items():
        if not parameter.numel():
            parameter.data = parameter.new_empty(tensors[name].shape)
        parameter.copy_(tensors[name].reshape(parameter.shape))


def _trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its leading axes of length 1."""
    while shape[:1] == (1,):
        shape = shape[1:]
    return shape


def read_checkpoint(path: str, kind: type = dict) -> Any:
    """Read a checkpoint, after comparing its bytes with its checksums.

    Files of old versions of PyTorch have no checksums; these are read unchecked. `kind` is `object`
    if the file may hold something else than a dict.
    """
    utils = dassl("utils")  # late: importing this module needs no Dassl

    if damaged := damaged_part(path):
        raise UserError(
            f"The checkpoint '{path}' is broken ('{damaged}' has changed since it was "
            "written): copy it again, take another epoch, or train again"
        )
    if kind is not dict and hasattr(utils, "load_content"):  # the original Dassl lacks it
        return utils.load_content(path)
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


def checkpoint_at(place: str, key: str, remedy: str) -> str:
    """Return the path of the checkpoint at a place: its file, its folder, or that of the run."""
    if os.path.isfile(place):
        return place
    files: Iterable[Path] = Path(place).glob("**/model*.pth.tar*") if os.path.isdir(place) else ()
    folders = {file.parent for file in files}
    if len(folders) != 1:
        what = "several checkpoints" if folders else "no checkpoint"
        raise UserError(f"{key} is '{place}', where there is {what}: {remedy}")
    return find_checkpoint(str(folders.pop()), None)


def model_folder(folder: Path) -> str:
    """Return the folder of the model in a run folder."""
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise UserError(f"'{folder}' {what}: give the output folder of a run")
    folders = sorted({path.parent for path in folder.glob("*/model*.pth.tar*")})
    if len(folders) != 1:
        what = "no checkpoint (model.pth.tar-EPOCH)" if not folders else "several models"
        raise UserError(
            f"'{folder}' holds no run to load: it has {what} in its folders; give the output "
            "folder of a run"
        )
    return os.fspath(folders[0])
