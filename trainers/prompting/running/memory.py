"""Chooses the encoders whose activations are recomputed, so that a training step fits into memory.

A frozen encoder keeps its activations only for the gradient of the prompts. With recomputation, an
encoder keeps the input of each block, and all activations of one block at a time.
"""

import ctypes
import math
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..errors import UserError

GIB = 1 << 30
# Bytes of an activation by precision. With amp, two of a block's ten activations stay float32:
# the inputs of LayerNorm.
ITEMSIZE = {"fp32": 4, "amp": 2.4, "fp16": 2}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


class Footprint(NamedTuple):
    """Bytes that an encoder keeps: all activations, its blocks' inputs, one block's activations."""

    stored: float = 0
    inputs: float = 0
    block: float = 0

    @property
    def recomputed(self) -> float:
        """Bytes that it keeps when its blocks are recomputed."""
        return self.inputs + self.block


class MemoryPlan(NamedTuple):
    """The encoders to recompute, and the bytes that a training step then keeps."""

    recompute: tuple[str, ...]
    needed: float

    def described(self, budget: int) -> str:
        """Return a sentence on the plan and its budget, in bytes."""
        again = f"the {' and '.join(self.recompute)} blocks" if self.recompute else "nothing"
        return (
            f"Memory: a step keeps about {self.needed / GIB:.2f} GiB of activations, the budget is "
            f"{budget / GIB:.2f} GiB; {again} will be recomputed"
        )


def memory_budget(gib: float, device: torch.device) -> int:
    """Return the bytes that activations, or the features of a support, may take.

    Args:
        gib: as configured; 0 takes 90% of the free memory of an accelerator. On the CPU, and if
            the accelerator does not report its free memory, 0 takes a quarter of the machine's
            memory: other runs need memory, too.
        device: where the model computes.

    Raises:
        UserError: it is negative, or not finite.
    """
    if not 0 <= gib < math.inf:
        raise UserError(f"MEMORY_BUDGET is {gib} but must be a number of GiB, or 0 for the default")
    if gib:
        return int(gib * GIB)
    mem_get_info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if mem_get_info:
        return int(0.9 * mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def keep_freed_memory():
    """Make this process keep freed memory and reuse it; only glibc supports this.

    Otherwise every large tensor is allocated from the system page by page and returned to it. If a
    step keeps gigabytes, that takes as long as the arithmetic.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose(towers: Mapping[str, Footprint], other: int, budget: int) -> MemoryPlan:
    """Return the plan with the least recomputation with which a step fits into the budget.

    Args:
        towers: footprints of the encoders by name.
        other: bytes that are kept in any case.
        budget: bytes.

    Raises:
        UserError: no plan fits; the message says by how much.
    """
    cheapest_first = sorted(towers, key=lambda name: towers[name].stored)
    choices = [(), *((name,) for name in cheapest_first), tuple(cheapest_first)]
    for recompute in choices:
        needed = other + sum(
            kept.recomputed if name in recompute else kept.stored for name, kept in towers.items()
        )
        if needed <= budget:
            return MemoryPlan(recompute, needed)
    enough = math.ceil(needed / GIB * 110) / 100  # with a tenth on top
    raise UserError(
        f"A training step keeps at least {needed / GIB:.2f} GiB of activations but MEMORY_BUDGET "
        f"leaves {budget / GIB:.2f} GiB: set TRAINER.MEMORY_BUDGET {enough:.2f}, or lower "
        "DATALOADER.TRAIN_X.BATCH_SIZE"
    )
