"""Count the cores and GPUs of this machine, without importing PyTorch."""

import os
import subprocess


def cores() -> int:
    """Return the number of cores that this process may use; in a Slurm job, those of the job."""
    mine = os.environ.get("SLURM_CPUS_ON_NODE", "")
    allotted = [int(mine)] if mine.isdecimal() else []
    if hasattr(os, "sched_getaffinity"):
        return min([len(os.sched_getaffinity(0)), *allotted])
    return min([os.cpu_count() or 1, *allotted])


def gpus() -> list[str]:
    """Return the GPUs that runs may use, as named by CUDA_VISIBLE_DEVICES; empty without any."""
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
    """Return the number of runs at once: one for each GPU, or one for each core, at most four.

    Small runs on the CPU are faster with one core each than one after the other on all cores.
    Memory sets the limit.
    """
    return len(devices) or min(cores(), 4)
