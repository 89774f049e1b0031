"""Devices, by the names that PyTorch gives them."""

import torch

from ..errors import UserError

KINDS = ("cpu", "cuda", "mps", "xpu")


def usable_device(name: str) -> torch.device:
    """Return the device of this name, such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        UserError: PyTorch cannot use it on this machine, or has no such name.
    """
    usable = _usable()
    if name not in usable:
        raise UserError(
            f"PyTorch cannot use the device '{name:.100}' here: give {' or '.join(usable)}"
        )
    return torch.device(name)


def usual_device() -> str:
    """Return `cuda` if PyTorch can use it here, else `cpu`."""
    return "cuda" if "cuda" in _usable() else "cpu"


def _usable() -> list[str]:
    """Return the names of all devices here: `cpu`, then each kind without and with a number."""
    found = ["cpu"]
    for kind in KINDS[1:]:
        count = getattr(torch, kind).device_count()
        found += [kind] * bool(count) + [f"{kind}:{i}" for i in range(count)]
    return found
