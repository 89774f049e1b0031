"""Writing and reading checkpoints, and putting them into a model."""

import codecs
import contextlib
import functools
import io
import os
import os.path as osp
import pickle
import re
import warnings

import numpy as np
import torch
from torch.optim import lr_scheduler

from .errors import UserError
from .tools import mkdir_if_missing


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write `state` to `save_dir`/`model_name` (default: model.pth.tar-<epoch>).

    The file appears only when it is complete. `save_dir`/checkpoint then names it as the last
    one. With `is_best` it is also copied to model-best.pth.tar.
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
    """As `torch.save`, but the file appears only when it is complete.

    The way is by memory: torch.save itself tells of a full disk in a RuntimeError that does not
    say so.
    """
    content = io.BytesIO()
    torch.save(obj, content)
    _write(fpath, content.getbuffer())


def _write(fpath, content):
    # Renaming is atomic: a run that is killed leaves the old file or the new one, never a half.
    temporary = f"{fpath}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, fpath)
    finally:
        if osp.exists(temporary):
            os.remove(temporary)


def _without_module(state_dict):
    """Drop the prefix that DataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def load_checkpoint(fpath, remedy="copy it again, or train again"):
    """The content of a checkpoint, a dict, with tensors on the CPU.

    Only tensors, plain values and the state of optimisers are read; no code in it runs. `remedy`
    ends the sentence about a file that is broken.
    """
    if not fpath:
        raise UserError("No checkpoint was named: give the path of a file")
    if not osp.isfile(fpath):
        raise UserError(f"No checkpoint at '{fpath}': check the folder and the epoch")
    try:
        with _known_globals():
            content = torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly every type there is
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(
                f"The checkpoint '{fpath}' is not read, because it holds objects of"
                f" {foreign.group(1)} that could run foreign code: save only its 'state_dict'"
            ) from None
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise UserError(f"The checkpoint '{fpath}' is broken ({reason}): {remedy}") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"The checkpoint '{fpath}' is broken (it holds a {kind}): {remedy}")
    return content


@contextlib.contextmanager
def _known_globals():
    """Let `weights_only` read what Dassl's own checkpoints hold beside tensors.

    That is the scheduler object behind a warm-up, with the optimiser that it refers to, and NumPy
    numbers as the value on the validation set.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_stand_ins())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@functools.cache
def _stand_ins():
    """What takes the place of the classes and functions that such a file names.

    Objects become empty shells that only carry their attributes: no code of theirs runs.
    """
    schedulers = ["CosineAnnealingLR", "MultiStepLR", "StepLR"]
    optimizers = ["Adam", "AdamW", "RAdam", "RMSprop", "SGD"]
    shells = [type(name, (), {"__module__": lr_scheduler.__name__}) for name in schedulers]
    shells += [type(name, (), {"__module__": f"torch.optim.{name.lower()}"}) for name in optimizers]
    scalar = np.float64(0).__reduce__()[0]
    return [
        *shells,
        dict,
        _renamed(lambda factory: {}, "collections", "defaultdict"),
        # NumPy 1 and 2 name the same function differently.
        _renamed(lambda *args: scalar(*args), "numpy.core.multiarray", "scalar"),
        _renamed(lambda *args: scalar(*args), "numpy._core.multiarray", "scalar"),
        np.dtype,
        type(np.dtype(np.float32)),
        type(np.dtype(np.float64)),
        codecs.encode,
    ]


def _renamed(function, module, name):
    function.__module__, function.__name__, function.__qualname__ = module, name, name
    return function


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load the last checkpoint in `fdir` into a model and its optimiser; return the next epoch."""
    checkpoint = load_last_checkpoint(fdir)
    restore(checkpoint, model, fdir, optimizer, scheduler)
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def load_last_checkpoint(fdir):
    """The checkpoint that the text file `fdir`/checkpoint names."""
    name_file = osp.join(fdir, "checkpoint")
    if not osp.isfile(name_file):
        raise UserError(f"No file '{name_file}', which names the last checkpoint: check the folder")
    with open(name_file, encoding="utf-8", errors="backslashreplace") as file:
        name = file.readline(100).strip()
    remedy = _ways_on(fdir, name_file, name)
    if not name or osp.basename(name) != name or not osp.isfile(osp.join(fdir, name)):
        raise UserError(
            f"'{name_file}' is to name the last checkpoint, but there is no file '{name}': {remedy}"
        )
    fpath = osp.join(fdir, name)
    print(f"Loading checkpoint from '{fpath}'")
    checkpoint = load_checkpoint(fpath, remedy)
    if not isinstance(checkpoint.get("epoch"), int) or "state_dict" not in checkpoint:
        raise UserError(f"The checkpoint '{fpath}' tells no epoch or has no model: {remedy}")
    return checkpoint


def _ways_on(fdir, name_file, name):
    """What to do when the last checkpoint, called `name`, cannot be used."""
    remedy = f"delete '{name_file}' to train from the start"
    epochs = {}
    for other in os.listdir(fdir):
        epoch = other.removeprefix("model.pth.tar-")
        if epoch.isdecimal() and other != name:
            epochs[int(epoch)] = other
    if epochs:
        remedy += f", or write '{epochs[max(epochs)]}' into it to go on from there"
    return remedy


def restore(checkpoint, model, source, optimizer=None, scheduler=None):
    """Put a checkpoint read from `source` into a model, and into its optimiser and scheduler."""
    inner = model.module if isinstance(model, torch.nn.DataParallel) else model
    try:
        inner.load_state_dict(checkpoint["state_dict"])
        if optimizer is not None and checkpoint.get("optimizer") is not None:
            optimizer.load_state_dict(checkpoint["optimizer"])
        if scheduler is not None and checkpoint.get("scheduler") is not None:
            scheduler.load_state_dict(checkpoint["scheduler"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if hasattr(error, "exit_code"):  # a model that explains itself
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The checkpoint in '{source}' does not fit the model ({reason}):"
            " use the trainer and the settings that it was trained with"
        ) from None


def load_pretrained_weights(model, weight_path):
    """Load those weights of a file whose name and shape fit the model; say which do not."""
    checkpoint = load_checkpoint(weight_path)
    pretrained = _without_module(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    fitting = {n: v for n, v in pretrained.items() if n in own and own[n].shape == v.shape}
    model.load_state_dict({**own, **fitting})
    if not fitting:
        warnings.warn(f"No weight of '{weight_path}' fits the model", stacklevel=2)
        return
    print(f"Loaded pretrained weights from '{weight_path}'")
    left_out = sorted(pretrained.keys() - fitting.keys())
    if left_out:
        print(f"Left out, since name or shape do not fit: {', '.join(left_out)}")
