"""The environment of a run: versions, the commit, the memory that it used."""

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has no such count of a process's memory
    resource = None  # type: ignore[assignment]

from ..running.devices import device_name

FOLDER = Path(__file__).resolve().parent


def versions(device: torch.device | str) -> dict[str, str | int]:
    """Return the versions of this project, Python and PyTorch, the device and the threads."""
    return {
        "align": sys.modules[__name__.rpartition(".record")[0]].__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


@cache
def git_commit() -> str:
    """Return the commit of the code, with `+` if the tree has changes; empty outside a checkout.

    It is asked for once in a process, which has imported the code.
    """
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def peak_memory_mib(device: torch.device | str) -> float:
    """Return the peak memory in MiB: of tensors on a GPU, else of this process; 0 if unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
