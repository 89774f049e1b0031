"""The state of a method: its buffers, saved with what is trained and loaded with it.

The values of a class-dependent buffer mean nothing for other classes. Two declarations keep them
apart: `persistent=False` of a buffer that `setup` makes from the class names, and
`class_bound` of a method that learns something for each class.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from .checkpoints import check_dense, is_dense

if TYPE_CHECKING:
    from ..method import Method

PARTS = "model.parts."


def own_state(method: Method) -> dict[str, Any]:
    """As `Method.own_state`."""
    parameters = method.model.parts.named_parameters(remove_duplicate=False)
    trained = {PARTS + name for name, _ in parameters}
    return {
        name: value
        for name, value in method.state_dict().items()
        if not name.startswith("model.") or (name.startswith(PARTS) and name not in trained)
    }


@torch.no_grad()
def load_own_state(method: Method, state: Mapping[str, torch.Tensor]) -> None:
    """As `Method.load_own_state`."""
    name = type(method).__name__
    if not isinstance(state, Mapping):
        raise UserError(
            f"The checkpoint has a {type(state).__name__} with the prompts, where the buffers "
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
    given = {key: state[key] for key in own.keys() & state.keys()}
    for key, value in given.items():
        if not torch.is_tensor(own[key]):  # extra state of a module, which reads it itself
            continue
        _check_value(key, value, own[key])
        if value.shape != own[key].shape:  # it was empty: its length was not known before training
            module, _, leaf = key.rpartition(".")
            setattr(method.get_submodule(module), leaf, own[key].new_empty(value.shape))
    method.load_state_dict(given, strict=False)


def _has_parts(state: Mapping) -> bool:
    return any(str(key).startswith(PARTS) for key in state)


def _check_value(key: str, value, own: torch.Tensor) -> None:
    """
    Raises:
        UserError: a value cannot be that of a buffer.
    """
    if is_dense(own) or not torch.is_tensor(value):
        check_dense(key, value)
    if own.numel() and value.shape != own.shape:
        raise UserError(
            f"The checkpoint's '{key}' has shape {tuple(value.shape)} but the method's has "
            f"{tuple(own.shape)}: make the settings, the classes and the backbone those of the "
            "trained model. A buffer whose length is not known before training starts empty"
        )
    if not is_sound(value):
        raise UserError(
            f"The checkpoint's '{key}' holds numbers that are not finite: its training failed, so "
            "take an earlier epoch or train again"
        )


def is_sound(value) -> torch.Tensor:
    """True, on its device, for a buffer without nan; infinities may be meant."""
    dense = torch.is_tensor(value) and value.layout == torch.strided
    return ~value.isnan().any() if dense else torch.tensor(True)


def class_buffers(method: Method) -> dict[str, str]:
    """Digests of the saved buffers that may have a row for each class."""
    K = method.model.num_classes
    return {
        name: _digest(value)
        for name, value in own_state(method).items()
        if torch.is_tensor(value)
        and value.layout == torch.strided
        and K in value.shape
        and value.numel()
        and not value.is_meta
    }


def _digest(value: torch.Tensor) -> str:
    content = value.cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).hexdigest()


def load_trained(method: Method, checkpoint: Mapping, classnames: Sequence[str]) -> None:
    """Load what a checkpoint, ours or a public one, holds of a method: prompts, parts, buffers.

    Args:
        classnames: K names, those that the method was built for.

    Raises:
        UserError: it does not fit the method, or is only for its own classes.
    """
    name, saved = type(method).__name__, checkpoint.get("classnames")
    if saved is not None and not are_texts(saved):
        raise UserError("The checkpoint does not tell its classes: take another, or train again")
    others = saved is not None and list(saved) != list(classnames)
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
        made = checkpoint.get("class_buffers")
        if not isinstance(made, Mapping):  # of an older version, which loaded no state here
            return
        _check_other_classes(method, state, made)
    method.load_own_state(state)


def _check_other_classes(method: Method, state: Mapping, made: Mapping[str, str]) -> None:
    """
    Args:
        made: `class_buffers` of the method as it was trained.

    Raises:
        UserError: a buffer was made for the classes of then.
    """
    given = state if isinstance(state, Mapping) else {}
    makes = method.class_buffers
    for key, own in own_state(method).items():
        both = torch.is_tensor(own) and torch.is_tensor(given.get(key))
        resized = both and own.numel() and given[key].shape != own.shape
        if resized or (key in made and key in makes and made[key] != makes[key]):
            raise UserError(
                f"The checkpoint's '{key}' of {type(method).__name__} is of its classes, and not "
                "of these: register what `setup` makes from class names with persistent=False, or "
                "say `class_bound = True` in the class"
            )


def are_texts(value) -> bool:
    """Whether a value is a list of strings."""
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)
