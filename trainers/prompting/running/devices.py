"""Devices, by the names that PyTorch gives them."""

import os
from pathlib import Path

import torch

from ..errors import UserError

KINDS = ("cpu", "cuda", "mps", "xpu")
DRIVER = Path("/proc/driver/nvidia/gpus")  # where Linux lists the GPUs of NVIDIA's driver


def usable_device(name: str | None) -> torch.device:
    """Return the device of this name, such as `cpu`, `cuda`, `cuda:1` or `mps`.

    None takes `cuda` if PyTorch can use it here, else `cpu`.
    """
    usable = _usable()
    if name is None:
        name = "cuda" if "cuda" in usable else "cpu"
    if name not in usable:
        raise UserError(
            f"PyTorch cannot use the device '{name:.100}' here: give {' or '.join(usable)}"
        )
    return torch.device(name)


def device_name(device: torch.device | str) -> str:
    """Return the name of a GPU, or the kind of another device, such as `cpu`."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def processor(device: torch.device | str) -> str:
    """Return the kind of a processor, by which sums are rounded: a GPU's name, or `cpu, AVX512`."""
    name = device_name(device)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if name == "cpu" else name


def idle_gpus() -> str:
    """Return the GPUs of this machine that PyTorch cannot use, and why; empty if it can, or none.

    A GPU that CUDA_VISIBLE_DEVICES hides is not meant to be used.
    """
    if torch.cuda.is_available() or "CUDA_VISIBLE_DEVICES" in os.environ or not DRIVER.is_dir():
        return ""
    files = [path for path in DRIVER.glob("*/information") if path.is_file()]
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    if not names:
        return ""
    cuda = torch.version.cuda
    why = (
        f"is built for CUDA {cuda}, which its driver may be too old for"
        if cuda
        else ("is built for CPUs only")
    )
    return f"{', '.join(names)}: PyTorch {torch.__version__} {why} (pytorch.org has others)"


def _usable() -> list[str]:
    """Return the names of all devices here: `cpu`, then each kind without and with a number."""
    names = ["cpu"]
    for kind in KINDS[1:]:
        count = getattr(torch, kind).device_count()
        names += [kind] * bool(count) + [f"{kind}:{i}" for i in range(count)]
    return names
