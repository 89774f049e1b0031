"""The state of a method: what it learns, by public names, and its buffers.

Buffers that depend on the classes must not be loaded for other classes. A method declares them in
one of two ways: `persistent=False` for a buffer that `build` makes from the class names, or
`class_bound` if the method learns something for each class.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError, need
from ..storage.values import check_dense, is_dense, is_sound


@torch.no_grad()
def load_parameters(
    own: Mapping[str, nn.Parameter],
    state: Mapping[str, torch.Tensor],
    is_unused: Callable[[str], bool],
    beginning: str,
) -> None:
    """Load parameters, by their public names, from a checkpoint of this project or a public one.

    Names of `state` are as in the whole published model, or lack the `beginning` of its part;
    `is_unused` is True for a name without a parameter that may be skipped.
    """
    tensors = {}
    for name, value in state.items():
        full = name if name in own else beginning + name
        if full in own:
            tensors[full] = value
        else:
            need(
                is_unused(name),
                f"The checkpoint has '{name}', which this method lacks: it is of another method, "
                "or of deeper prompts",
            )
    for name, parameter in own.items():
        need(
            name in tensors,
            f"The checkpoint lacks '{name}': it is of another method, or of shallower prompts",
        )
        value = tensors[name]
        check_dense(name, value, trained=True)
        expected, given = tuple(parameter.shape), tuple(value.shape)
        if not parameter.numel():  # its length was not known before training
            given, expected = given[1:], expected[1:]
        fits = _trim(given) == _trim(expected)  # a single prompt may lack its leading axis
        _check_numbers(name, fits, given, expected, value.to(parameter.dtype).isfinite().all())
    for name, parameter in own.items():
        if not parameter.numel():
            parameter.data = parameter.new_empty(tensors[name].shape)
        parameter.copy_(tensors[name].reshape(parameter.shape))


def _trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its leading axes of length 1."""
    while shape[:1] == (1,):
        shape = shape[1:]
    return shape


def _check_numbers(
    name: str, fits: bool, given: tuple[int, ...], expected: tuple[int, ...], sound: Any
) -> None:
    """Refuse a tensor whose shape does not fit, or whose numbers are not sound."""
    need(
        fits,
        f"The checkpoint's '{name}' has shape {given}, but the method's has {expected}: make the "
        "settings, the classes and the backbone those of the trained model",
    )
    need(
        sound,
        f"The checkpoint's '{name}' holds numbers that are not finite: its training failed, so "
        "take an earlier epoch or train again",
    )


@torch.no_grad()
def load_buffers(
    module: nn.Module, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Load the persistent buffers of a method, by name, from those in a checkpoint."""
    made_again = dict(module.named_buffers()).keys()
    need(
        not (own.keys() - state.keys() or state.keys() - own.keys() - made_again),
        f"The checkpoint keeps {sorted(state)} with the prompts, but {type(module).__name__} has "
        f"{sorted(own)}: it is of another method",
    )
    given = {key: state[key] for key in own}
    for key, value in given.items():
        if not torch.is_tensor(own[key]):  # extra state, which its module checks itself
            continue
        if is_dense(own[key]) or not torch.is_tensor(value):
            check_dense(key, value, trained=own[key].is_floating_point())
        expected, shape = tuple(own[key].shape), tuple(value.shape)
        fits = shape == expected or not own[key].numel()  # length not known before training
        _check_numbers(key, fits, shape, expected, is_sound(value))
        if shape != expected:
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, own[key].new_empty(shape))
    module.load_state_dict(given, strict=False)


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
    given: Mapping[str, Any],
    made: Mapping[str, str] | None,
    digests: Mapping[str, str],
) -> None:
    """Refuse buffers that depend on the classes of the training, when loading for other classes.

    `own` are the buffers of a method, built for the present classes, and `given` those of the
    checkpoint; `made` and `digests` are `digests_by_class` of the trained method before its
    training, and of the present one.
    """
    if made is None:
        raise UserError(
            "The checkpoint does not say which buffers depend on its classes: take another, or "
            "train again"
        )
    for key, value in own.items():
        both = torch.is_tensor(value) and torch.is_tensor(given.get(key))
        resized = both and value.numel() and given[key].shape != value.shape
        need(
            not resized and not (key in made and key in digests and made[key] != digests[key]),
            f"The checkpoint's '{key}' of {name} depends on the classes of its training: register "
            "what `build` makes from class names with persistent=False, or set `class_bound = "
            "True` in the class",
        )


def check_per_class(
    own: Mapping[str, nn.Parameter], given: Mapping[str, Any], then: int, now: int
) -> None:
    """Refuse parameters of `then` classes of a training, when loading for `now` other classes."""
    for name, parameter in own.items():
        shape, expected = getattr(given.get(name), "shape", ()), tuple(parameter.shape)
        need(
            expected in ((), tuple(shape))
            or tuple(now if n == then else n for n in shape) != expected,
            f"The checkpoint's '{name}' has something for each of the {then} classes of its "
            "training: set `class_bound = True` in the class of the method",
        )


class PublicLayout(nn.Module):
    """Wraps a method so that Dassl saves and loads only what is learned, by its public names."""

    def __init__(self, method: Any):
        super().__init__()
        self.method = method  # `train()` and `eval()` reach it through this module

    def state_dict(self, *args, **kwargs):
        """Return the learned parameters by their public names, without gradient."""
        return self.method.public.shorten(self.method.public_state_dict())

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load as `Method.load_public_state_dict`; `strict` and `assign` are ignored."""
        self.method.load_public_state_dict(state_dict)
