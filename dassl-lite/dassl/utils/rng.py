"""Reads and sets the states of all random number generators, as plain data for checkpoints."""

import random
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_rng_state():
    """Return the states of Python, NumPy, PyTorch and, if available, CUDA."""
    of_numpy: Any = np.random.get_state()
    name, keys, pos, has_gauss, cached = of_numpy
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), pos, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state):
    """Restore states returned by `get_rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    cuda = state.get("cuda", [])
    if cuda and len(cuda) == torch.cuda.device_count():  # else it was another machine
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def local_seed(seed):
    """Seed the generators of the CPU inside the block, and restore their states after it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
