"""What a training step keeps for its backward pass, and what to recompute so that it fits.

Activations of a frozen tower are kept for the gradient of the prompts alone. A tower whose blocks
are recomputed keeps the input of each block, and the rest of one block at a time.
"""

import ctypes
import math
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..errors import UserError
from . import ranks

GIB = 1 << 30
# Bytes of an activation by precision. With amp two of a block's ten states stay float32: what
# LayerNorm reads.
ITEMSIZE = {"fp32": 4, "amp": 2.4, "fp16": 2}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


class Footprint(NamedTuple):
    """Bytes that one tower keeps: all activations, its blocks' inputs, one block's activations."""

    stored: float = 0
    inputs: float = 0
    block: float = 0

    @property
    def recomputed(self) -> float:
        """What is left of `stored` when the blocks are recomputed."""
        return self.inputs + self.block


class MemoryPlan(NamedTuple):
    """The towers to recompute, and what a training step then keeps, in bytes."""

    recompute: tuple[str, ...]
    needed: float

    def described(self, budget: int) -> str:
        """A sentence on the plan and the bytes that it was to fit into."""
        again = f"the {' and '.join(self.recompute)} blocks" if self.recompute else "nothing"
        return (
            f"Memory: a step keeps about {self.needed / GIB:.2f} GiB of activations, the budget is "
            f"{budget / GIB:.2f} GiB; {again} will be recomputed"
        )


def memory_budget(gib: float, device: torch.device) -> int:
    """Bytes that activations may take, or what is kept of the training images.

    Args:
        gib: as configured; 0 takes what is free on an accelerator less a tenth, and a quarter of
            the machine's memory on the CPU, which other runs want too and ranks share, or where
            the accelerator does not tell.
        device: where the model computes.

    Raises:
        UserError: it is negative.
    """
    if gib < 0:
        raise UserError(f"MEMORY_BUDGET is {gib} but is a number of GiB, or 0 for the default")
    if gib:
        return int(gib * GIB)
    mem_get_info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if mem_get_info:
        return int(0.9 * mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // ranks.count_here()


def keep_freed_memory():
    """Let this process keep what it frees, and reuse it; glibc alone offers that.

    Otherwise every large tensor is fetched from the system page by page and given back, which
    takes as long as the arithmetic where a step keeps gigabytes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose(towers: Mapping[str, Footprint], other: int, budget: int) -> MemoryPlan:
    """The least recomputation with which a step fits into the budget, in bytes.

    `other` bytes are kept in any case.

    Raises:
        UserError: it does not fit even so; says by how much.
    """
    cheapest_first = sorted(towers, key=lambda name: towers[name].stored)
    choices = [(), *((name,) for name in cheapest_first), tuple(cheapest_first)]
    for recompute in choices:
        needed = other + sum(
            kept.recomputed if name in recompute else kept.stored for name, kept in towers.items()
        )
        if needed <= budget:
            return MemoryPlan(recompute, needed)
    missing = math.ceil((needed - budget) / GIB * 110) / 100  # and a tenth on top
    raise UserError(
        f"A training step keeps at least {needed / GIB:.2f} GiB of activations but MEMORY_BUDGET "
        f"leaves {budget / GIB:.2f} GiB: raise it by {missing:.2f} or lower the batch size"
    )
