"""Full precision inside a solver, independent of autocast and PyTorch's TF32 switches."""

from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision(device_type: str):
    """Turn off gradients, autocast, and TF32 or bfloat16 inside float32 products.

    PyTorch has an old and, since 2.9, a new set of switches for such products. Both are turned off
    and restored, because PyTorch refuses to read one if the other has another value.
    """
    with torch.no_grad(), no_autocast(device_type), _exact_products():
        yield


def no_autocast(device_type: str):
    """Turn autocast off. Do nothing if it is off: an exported program cannot contain autocast."""
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


def gradients_of(images: torch.Tensor):
    """Turn gradients off, unless the images need one, such as those that an attack changes."""
    return torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled())


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, on the CPU if its device has no such numbers (mps)."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)


@contextmanager
def _exact_products():
    if torch.compiler.is_compiling():  # an exported program has none of these switches
        yield
        return
    places = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    backends: list[Any] = [place for place in places if hasattr(place, "fp32_precision")]
    new = [backend.fp32_precision for backend in backends]
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:  # the new switches differ, so the old one has no meaning
        old = None
    if old == "highest" and {"none", "ieee"}.issuperset(new):
        yield
        return
    torch.set_float32_matmul_precision("highest")  # sets both
    try:
        yield
    finally:
        if old is not None:
            torch.set_float32_matmul_precision(old)
        for backend, value in zip(backends, new, strict=True):
            backend.fp32_precision = "none"  # inherit, if that gives the same value
            if backend.fp32_precision != value:
                backend.fp32_precision = value
