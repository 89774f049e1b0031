"""Checks of values that were read from files."""

import torch

from ..errors import UserError


def is_dense(value) -> bool:
    """Return True for a dense tensor of real numbers, as those that are written here."""
    return (
        torch.is_tensor(value)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_meta or value.is_nested)
    )


def check_dense(name: str, value, trained: bool = False) -> None:
    """Refuse a value that is no dense tensor, of floating point if it is trained (UserError)."""
    if not is_dense(value) or (trained and not value.is_floating_point()):
        kind = f" of {value.dtype} ({value.layout})" if torch.is_tensor(value) else ""
        raise UserError(
            f"The checkpoint's '{name}' is a {type(value).__name__}{kind} and not a dense tensor "
            "of real numbers: take another checkpoint, or train again"
        )


def is_sound(value) -> torch.Tensor:
    """Return a boolean on the device: True for a buffer without nan; infinities are allowed."""
    dense = torch.is_tensor(value) and value.layout == torch.strided
    return ~value.isnan().any() if dense else torch.tensor(True)
