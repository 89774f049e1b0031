"""The state of a method: its buffers, saved beside what is trained and loaded with it.

Of a class-dependent buffer the values for some classes mean nothing for others. Two declarations
keep them apart: `persistent=False` of a buffer that `setup` makes from the class names, and
`class_bound` of a method that learns something for each class.
"""

import hashlib
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import UserError

PARTS = "model.parts."


@torch.no_grad()
def load_buffers(
    module: nn.Module, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Load the buffers that a checkpoint keeps beside what is trained.

    Args:
        module: the method.
        own: those of its buffers that checkpoints keep, by their names in it.
        state: the same of the checkpoint.

    Raises:
        UserError: the state is of another method, or a value does not fit.
    """
    name = type(module).__name__
    if not isinstance(state, Mapping):
        raise UserError(
            f"The checkpoint keeps a {type(state).__name__} beside the prompts, where the buffers "
            f"of {name} belong: take another checkpoint, or train again"
        )
    made_again = dict(module.named_buffers()).keys()
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
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, state[key].to(own[key]))


def _has_parts(state: Mapping) -> bool:
    return any(str(key).startswith(PARTS) for key in state)


def _check_value(key: str, value, own: torch.Tensor) -> None:
    """Refuse a value that does not fit.

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


def digests_by_class(buffers: Mapping[str, torch.Tensor], num_classes: int) -> dict[str, str]:
    """Digests of the buffers that may have a row for each class."""
    return {
        name: _digest(value)
        for name, value in buffers.items()
        if num_classes in value.shape and value.numel() and not value.is_meta
    }


def _digest(value: torch.Tensor) -> str:
    content = value.cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).hexdigest()


def check_other_classes(
    name: str,
    own: Mapping[str, torch.Tensor],
    state: Mapping,
    made: Mapping[str, str],
    digests: Mapping[str, str],
) -> None:
    """Refuse buffers that were made for the classes of then.

    Args:
        name: of the method.
        own: its buffers, of the classes of now.
        state: those of the checkpoint.
        made: `digests_by_class` of the method before it was trained.
        digests: the same of now.

    Raises:
        UserError: names one of them.
    """
    for key, value in own.items():
        given = state.get(key)
        resized = torch.is_tensor(given) and value.numel() and given.shape != value.shape
        if resized or made.get(key, "") != digests.get(key, ""):
            raise UserError(
                f"The checkpoint's '{key}' of {name} is of its classes, and not "
                "of these: register what `setup` makes from class names with persistent=False, or "
                "say `class_bound = True` in the class"
            )
