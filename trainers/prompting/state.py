"""The state of a method: its buffers, saved beside what is trained and loaded with it.

Of a class-dependent buffer the values for some classes mean nothing for others. Two declarations
keep them apart: `persistent=False` of a buffer that `setup` makes from the class names, and
`class_bound` of a method that learns something for each class.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from .errors import UserError

if TYPE_CHECKING:
    from .method import Method

PARTS = "model.parts."


def own_state(method: Method) -> dict[str, torch.Tensor]:
    """As `Method.own_state`."""
    parts = {PARTS + name for name, _ in method.model.parts.named_buffers()}
    state = method.state_dict()
    return {k: v for k, v in state.items() if not k.startswith("model.") or k in parts}


@torch.no_grad()
def load_own_state(method: Method, state: Mapping[str, torch.Tensor]) -> None:
    """As `Method.load_own_state`."""
    name = type(method).__name__
    if not isinstance(state, Mapping):
        raise UserError(
            f"The checkpoint keeps a {type(state).__name__} beside the prompts, where the buffers "
            f"of {name} belong: take another checkpoint, or train again"
        )
    own, made_again = own_state(method), dict(method.named_buffers()).keys()
    lacking = own.keys() - state.keys()
    if lacking and all(key.startswith(PARTS) for key in lacking) and not _has_parts(state):
        warnings.warn(
            f"The checkpoint is of an older version and lacks {', '.join(sorted(lacking))}: these "
            "stay as they start, so train again",
            stacklevel=2,
        )
    elif lacking or state.keys() - own.keys() - made_again:
        raise UserError(
            f"The checkpoint keeps {sorted(state)} beside the prompts, but {name} has "
            f"{sorted(own)}: it is of another method"
        )
    for key in own.keys() & state.keys():
        _check_value(key, state[key], own[key])
    for key in own.keys() & state.keys():
        if own[key].shape == state[key].shape:
            own[key].copy_(state[key])
        else:  # it was empty: its length was not known before training
            module, _, leaf = key.rpartition(".")
            setattr(method.get_submodule(module), leaf, state[key].to(own[key]))


def _has_parts(state: Mapping) -> bool:
    return any(str(key).startswith(PARTS) for key in state)


def _check_value(key: str, value, own: torch.Tensor) -> None:
    """
    Raises:
        UserError: a value cannot be that of a buffer.
    """
    if not torch.is_tensor(value):
        raise UserError(
            f"The checkpoint's '{key}' is a {type(value).__name__} and no tensor: take another "
            "checkpoint, or train again"
        )
    if own.numel() and value.shape != own.shape:
        raise UserError(
            f"The checkpoint's '{key}' has shape {tuple(value.shape)} but the method's has "
            f"{tuple(own.shape)}: make the settings, the classes and the backbone those of the "
            "trained model. A buffer whose length is not known before training starts empty"
        )
    if value.isnan().any():
        raise UserError(
            f"The checkpoint's '{key}' holds numbers that are not finite: its training failed, so "
            "take an earlier epoch or train again"
        )


def class_buffers(method: Method) -> dict[str, str]:
    """Digests of the saved buffers that may have a row for each class."""
    K = method.model.num_classes
    return {
        name: _digest(value)
        for name, value in own_state(method).items()
        if K in value.shape and value.numel() and not value.is_meta
    }


def _digest(value: torch.Tensor) -> str:
    content = value.cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).hexdigest()


def load_trained(method: Method, checkpoint: Mapping, classnames: Sequence[str]) -> None:
    """Load what a checkpoint, ours or a public one, holds of a method: prompts, parts, buffers.

    Args:
        classnames: K names, those that the method was built for.

    Raises:
        UserError: it does not fit the method, or is for its own classes alone.
    """
    name, saved = type(method).__name__, checkpoint.get("classnames")
    others = saved is not None and saved != list(classnames)
    if others and (method.class_bound or method.model.spec.class_specific):
        csc = " (CSC)" if method.model.spec.class_specific else ""
        raise UserError(
            f"{name} has learned something for each of its classes{csc}: it cannot name others"
        )
    method.model.load_public_state_dict(checkpoint.get("state_dict", checkpoint))
    state = checkpoint.get("method")
    if state is None or checkpoint.get("trainer") != name:  # the prompts of another code or method
        return
    if others:
        if "class_buffers" not in checkpoint:  # of an older version, which loaded none
            return
        _check_other_classes(method, state, checkpoint["class_buffers"])
    method.load_own_state(state)


def _check_other_classes(method: Method, state: Mapping, made: Mapping[str, str]) -> None:
    """
    Args:
        made: `class_buffers` of the method as it was trained.

    Raises:
        UserError: a buffer was made for the classes of then.
    """
    for key, value in own_state(method).items():
        given = state.get(key)
        resized = torch.is_tensor(given) and value.numel() and given.shape != value.shape
        if resized or made.get(key, "") != method.class_buffers.get(key, ""):
            raise UserError(
                f"The checkpoint's '{key}' of {type(method).__name__} is of its classes, and not "
                "of these: register what `setup` makes from class names with persistent=False, or "
                "say `class_bound = True` in the class"
            )
