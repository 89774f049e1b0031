"""What a run computes with: versions, the commit, the memory that it took."""

import platform
import subprocess
import sys
from pathlib import Path

import torch
import torchvision

from trainers.prompting import __version__

try:
    import resource
except ImportError:  # Windows does not count a process's memory
    resource = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str | int]:
    """This project, Python, PyTorch and what it runs on."""
    return {
        "align": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str:
    """Commit of the code, with `+` when the tree has changes; empty outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def peak_memory_mib(device: torch.device | str) -> float:
    """MiB that tensors took on a GPU at most, else that this process held; 0 if nobody counts."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
