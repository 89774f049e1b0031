"""The state of a method: its buffers, saved with what is trained and loaded with it.

The values of a class-dependent buffer mean nothing for other classes. Two declarations keep them
apart: `persistent=False` of a buffer that `setup` makes from the class names, and
`class_bound` of a method that learns something for each class.
"""

import hashlib
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import UserError
from .checkpoints import check_dense, is_dense

PARTS = "model.parts."


@torch.no_grad()
def load_buffers(
    module: nn.Module, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Load the buffers that a checkpoint keeps with what is trained, `own` of those of the method.

    Raises:
        UserError: the state is of another method, or a value does not fit.
    """
    name = type(module).__name__
    if not isinstance(state, Mapping):
        raise UserError(
            f"The checkpoint has a {type(state).__name__} with the prompts, where the buffers "
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
    given = {key: state[key] for key in own.keys() & state.keys()}
    for key, value in given.items():
        if not torch.is_tensor(own[key]):  # extra state of a module, which reads it itself
            continue
        _check_value(key, value, own[key])
        if value.shape != own[key].shape:  # it was empty: its length was not known before training
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, own[key].new_empty(value.shape))
    module.load_state_dict(given, strict=False)


def _has_parts(state: Mapping) -> bool:
    return any(str(key).startswith(PARTS) for key in state)


def _check_value(key: str, value, own: torch.Tensor) -> None:
    """Refuse a value that cannot be that of a buffer."""
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


def digests_by_class(buffers: Mapping[str, torch.Tensor], num_classes: int) -> dict[str, str]:
    """Digests of the buffers that may have a row for each class."""
    return {
        name: _digest(value)
        for name, value in buffers.items()
        if is_dense(value) and num_classes in value.shape and value.numel()
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
    given = state if isinstance(state, Mapping) else {}
    for key, value in own.items():
        both = torch.is_tensor(value) and torch.is_tensor(given.get(key))
        resized = both and value.numel() and given[key].shape != value.shape
        if resized or (key in made and key in digests and made[key] != digests[key]):
            raise UserError(
                f"The checkpoint's '{key}' of {name} is of its classes, and not "
                "of these: register what `setup` makes from class names with persistent=False, or "
                "say `class_bound = True` in the class"
            )


def are_texts(value) -> bool:
    """Whether a value is a list of strings."""
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)
