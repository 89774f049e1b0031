"""Writes and reads checkpoints, and restores models and optimisers from them."""

import codecs
import functools
import io
import os
import os.path as osp
import pickle
import re
import warnings
import zipfile
from typing import Any

import numpy as np
import torch

from .errors import UserError
from .tools import mkdir_if_missing


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write `state` to `save_dir`/`model_name` (default: model.pth.tar-<epoch>).

    The file is written atomically. `save_dir`/checkpoint then names it as the last one. With
    `is_best` it is also copied to model-best.pth.tar.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state = {**state, "state_dict": _without_module(state["state_dict"])}
    fpath = osp.join(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    save_whole(state, fpath)
    _write(osp.join(save_dir, "checkpoint"), f"{osp.basename(fpath)}\n".encode())
    print(f"Checkpoint saved to {fpath}")
    if is_best:
        with open(fpath, "rb") as file:
            _write(osp.join(save_dir, "model-best.pth.tar"), file.read())


def save_whole(obj, fpath):
    """Save an object as `torch.save` does, but atomically.

    The content is first made in memory: on a full disk, torch.save itself raises a RuntimeError
    that does not name the cause.
    """
    content = io.BytesIO()
    torch.save(obj, content)
    _write(fpath, content.getbuffer())


def _write(fpath, content):
    # Renaming is atomic: a killed run leaves the old file or the new one, never a partial one.
    temporary = f"{fpath}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, fpath)
    finally:
        if osp.exists(temporary):
            os.remove(temporary)


def _without_module(state_dict):
    """Remove the prefix that DataParallel adds to every name."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def load_checkpoint(fpath, remedy="copy it again, or train again"):
    """Read a checkpoint as `load_content` does, and check that it is a dict."""
    content = load_content(fpath, remedy)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"The checkpoint '{fpath}' is broken (it holds a {kind}): {remedy}")
    return content


def load_content(fpath, remedy="copy it again, or train again"):
    """Return the content of a PyTorch file, with tensors on the CPU.

    Only tensors, plain values and states of optimisers are read; no code in the file is executed.
    `remedy` ends the message about a broken file.
    """
    if not osp.isfile(fpath):
        raise UserError(f"There is no checkpoint '{fpath}', a file: check the path")
    try:
        # torch.load does not compare checksums; files of an old PyTorch, not zip, have none.
        if zipfile.is_zipfile(fpath):
            with zipfile.ZipFile(fpath) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"'{damaged}' has changed since it was written")
        safe = torch.serialization.get_safe_globals()  # those of others, which are to stay
        with torch.serialization.safe_globals([x for x in _stand_ins() if x not in safe]):
            return torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises errors of many types
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(
                f"The checkpoint '{fpath}' is not read, because it holds objects of"
                f" {foreign.group(1)} that could run foreign code: save only its 'state_dict'"
            ) from None
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        if isinstance(error, pickle.UnpicklingError):  # its long advice on weights_only is dropped
            reason = "it is not a PyTorch checkpoint"
        raise UserError(f"The checkpoint '{fpath}' is broken ({reason}): {remedy}") from None


@functools.cache
def _stand_ins():
    """Return stand-ins for the classes and functions in checkpoints of the original Dassl.

    These have the scheduler that follows a warm-up, with the optimiser that it refers to, and NumPy
    numbers for the validation result; GalLoP's also have the arguments of its command. Objects
    become empty shells with their attributes; none of their code is executed.
    """
    names = [
        f"torch.optim.lr_scheduler.{n}" for n in ("CosineAnnealingLR", "MultiStepLR", "StepLR")
    ]
    names += [f"torch.optim.{n.lower()}.{n}" for n in ("Adam", "AdamW", "RAdam", "RMSprop", "SGD")]
    shells = [_rename(type("Shell", (), {}), name) for name in [*names, "argparse.Namespace"]]
    scalar: Any = np.float64(0).__reduce__()[0]  # NumPy 1 and 2 name it differently
    places = "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"
    scalars = [_rename(lambda *args: scalar(*args), name) for name in places]
    empty = _rename(lambda factory: {}, "collections.defaultdict")
    dtypes = [np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64))]
    return [*shells, *scalars, *dtypes, empty, dict, codecs.encode]


def _rename(stand_in, name):
    stand_in.__module__, _, stand_in.__qualname__ = name.rpartition(".")
    return stand_in


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load the last checkpoint in `fdir` into a model and its optimiser; return the next epoch."""
    checkpoint = load_last_checkpoint(fdir)
    restore(checkpoint, model, fdir, optimizer, scheduler)
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def load_last_checkpoint(fdir):
    """Read the checkpoint that the text file `fdir`/checkpoint names."""
    name = _last_name(fdir)
    fpath = osp.join(fdir, name)
    print(f"Loading checkpoint from '{fpath}'")
    return load_checkpoint(fpath, _ways_on(fdir, name))


def broken_checkpoint(fdir, flaw):
    """Return the UserError about the last checkpoint of a folder, with the remedies.

    `flaw` says what is wrong with it; the checkpoint is the subject of the sentence.
    """
    name = _last_name(fdir)
    return UserError(f"The checkpoint '{osp.join(fdir, name)}' {flaw}: {_ways_on(fdir, name)}")


def _last_name(fdir):
    """Return the name in the text file `fdir`/checkpoint."""
    with open(osp.join(fdir, "checkpoint"), encoding="utf-8") as file:
        return file.readline().strip()


def _ways_on(fdir, name):
    """Return the remedies, in words, if the last checkpoint, called `name`, cannot be used."""
    name_file = osp.join(fdir, "checkpoint")
    remedy = f"delete '{name_file}' to train from the start"
    epochs = {}
    for other in os.listdir(fdir):
        epoch = other.removeprefix("model.pth.tar-")
        if epoch.isdecimal() and other != name:
            epochs[int(epoch)] = other
    if epochs:
        remedy += f", or write '{epochs[max(epochs)]}' into it to resume from there"
    return remedy


def restore(checkpoint, model, source, optimizer=None, scheduler=None):
    """Load a checkpoint read from `source` into a model, its optimiser and its scheduler.

    Raises:
        UserError: the model does not fit.
        KeyError, TypeError, AttributeError: there is no state of the optimiser or the scheduler.
    """
    inner = model.module if isinstance(model, torch.nn.DataParallel) else model
    try:
        inner.load_state_dict(checkpoint["state_dict"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if hasattr(error, "exit_code"):  # already a clear sentence from the model
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The checkpoint in '{source}' does not fit the model ({reason}):"
            " use the trainer and the settings that it was trained with"
        ) from None
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(checkpoint["scheduler"])


def load_pretrained_weights(model, weight_path):
    """Load the weights of a file whose names and shapes fit the model; print those left out."""
    checkpoint = load_checkpoint(weight_path)
    pretrained = _without_module(checkpoint.get("state_dict", checkpoint))
    state = model.state_dict()
    fitting = {n: v for n, v in pretrained.items() if n in state and state[n].shape == v.shape}
    model.load_state_dict({**state, **fitting})
    if not fitting:
        warnings.warn(f"No weight of '{weight_path}' fits the model", stacklevel=2)
        return
    print(f"Loaded pretrained weights from '{weight_path}'")
    left_out = sorted(pretrained.keys() - fitting.keys())
    if left_out:
        print(f"Left out, since name or shape do not fit: {', '.join(left_out)}")
