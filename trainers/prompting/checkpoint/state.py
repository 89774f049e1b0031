"""The state of a method: its buffers, saved and loaded with its trained parameters.

Buffers that depend on the classes must not be loaded for other classes. A method declares them in
one of two ways: `persistent=False` for a buffer that `build` makes from the class names, or
`class_bound` if the method learns something for each class.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..storage.values import check_dense, is_dense, is_sound


@torch.no_grad()
def load_buffers(
    module: nn.Module, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Load the persistent buffers of a method, by name, from those in a checkpoint."""
    name = type(module).__name__
    if not isinstance(state, Mapping):
        raise UserError(
            f"The checkpoint has a {type(state).__name__} with the prompts, where the buffers "
            f"of {name} belong: take another checkpoint, or train again"
        )
    made_again = dict(module.named_buffers()).keys()
    if own.keys() - state.keys() or state.keys() - own.keys() - made_again:
        raise UserError(
            f"The checkpoint keeps {sorted(state)} with the prompts, but {name} has "
            f"{sorted(own)}: it is of another method"
        )
    given = {key: state[key] for key in own}
    for key, value in given.items():
        if not torch.is_tensor(own[key]):  # extra state, which its module checks itself
            continue
        _check_value(key, value, own[key])
        if value.shape != own[key].shape:  # it was empty: its length was not known before training
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, own[key].new_empty(value.shape))
    module.load_state_dict(given, strict=False)


def _check_value(key: str, value, own: torch.Tensor) -> None:
    """Check that a value fits a buffer; raise a UserError if not."""
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


def digests_by_class(buffers: Mapping[str, torch.Tensor], num_classes: int) -> dict[str, str]:
    """Return the digests of the buffers that may have a row for each class, by name."""
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
    made: Mapping[str, str] | None,
    digests: Mapping[str, str],
) -> None:
    """Refuse buffers that depend on the classes of the training, when loading for other classes.

    Args:
        name: of the method.
        own: its buffers, built for the present classes.
        state: the buffers of the checkpoint.
        made: `digests_by_class` of the trained method before its training.
        digests: `digests_by_class` of the present method.
    """
    if not isinstance(made, Mapping):
        raise UserError(
            "The checkpoint does not say which buffers depend on its classes: take another, or "
            "train again"
        )
    given = state if isinstance(state, Mapping) else {}
    for key, value in own.items():
        both = torch.is_tensor(value) and torch.is_tensor(given.get(key))
        resized = both and value.numel() and given[key].shape != value.shape
        if resized or (key in made and key in digests and made[key] != digests[key]):
            raise UserError(
                f"The checkpoint's '{key}' of {name} depends on the classes of its training: "
                "register what `build` makes from class names with persistent=False, or set "
                "`class_bound = True` in the class"
            )


class PublicLayout(nn.Module):
    """Wraps a method so that Dassl saves and loads only what is learned, by its public names."""

    def __init__(self, method: Any):
        super().__init__()
        self.method = method  # `train()` and `eval()` reach it through this module
        self.prefix = f"{method.submodule}." if method.saves_submodule else ""

    def state_dict(self, *args, **kwargs):
        """Return the learned parameters by their public names, without gradient."""
        state = self.method.public_state_dict()
        return {name.removeprefix(self.prefix): value for name, value in state.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load as `Method.load_public_state_dict`; `strict` and `assign` are ignored."""
        self.method.load_public_state_dict(state_dict)
