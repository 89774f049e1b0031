"""Random numbers of a block of code, which leave those of the run alone."""

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int):
    """Seed the generators of the CPU inside the block; as dassl-lite's `local_seed`."""
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
