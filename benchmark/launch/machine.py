"""What this machine can run at once, found out without importing PyTorch."""

import os
import subprocess


def cores() -> int:
    """The processor cores that this process may use; in a Slurm job those that the job has."""
    mine = os.environ.get("SLURM_CPUS_ON_NODE", "")
    allotted = [int(mine)] if mine.isdecimal() else []
    if hasattr(os, "sched_getaffinity"):
        return min([len(os.sched_getaffinity(0)), *allotted])
    return min([os.cpu_count() or 1, *allotted])


def gpus() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        visible = ",".join(answer.stdout.split())
    devices = [name.strip() for name in visible.split(",")]
    return [name for name in devices if name not in ("", "-1")]


def default_jobs(devices: list[str]) -> int:
    """How many runs at once: one on each GPU, or one on each core, four at most.

    Small runs on the CPU gain more from a core each than from sharing all cores in turn; the
    limit is for memory.
    """
    return len(devices) or min(cores(), 4)
