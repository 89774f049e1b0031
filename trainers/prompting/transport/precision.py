"""Full precision inside a solver, whatever the program around it has chosen."""

from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision(device_type: str):
    """No gradient, no autocast, and no TF32 or bfloat16 inside float32 products.

    PyTorch has two sets of switches for such products, of which the newer came with 2.9: both are
    turned off and brought back, as it refuses to read one where the other says something else.
    """
    with torch.no_grad(), no_autocast(device_type), _exact_products():
        yield


def no_autocast(device_type: str):
    """No autocast; nothing at all where it is off, as a program that is exported cannot hold it."""
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


@contextmanager
def _exact_products():
    if torch.compiler.is_compiling():  # a program has none of these switches
        yield
        return
    backends: list[Any] = [torch.backends.cuda.matmul]
    backends.append(getattr(torch.backends.mkldnn, "matmul", None))
    backends = [backend for backend in backends if hasattr(backend, "fp32_precision")]
    new = [backend.fp32_precision for backend in backends]
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:  # the new switches differ: what the old one says counts for nothing
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
            backend.fp32_precision = "none"  # inherited, as far as that gives the same
            if backend.fp32_precision != value:
                backend.fp32_precision = value
