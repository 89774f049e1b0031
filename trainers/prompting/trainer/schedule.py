"""The length of a training and its learning rates: by epochs as in Dassl, or by steps.

Letters: E epochs of n steps each, of which the last may have fewer.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from yacs.config import CfgNode

from ..errors import UserError

KEYS = {
    "ADAM_EPS": 1e-8,  # which Dassl itself leaves to PyTorch
    "STEPS": 0,  # above 0: this many in the place of MAX_EPOCH, and LR_BY_STEP
    "LR_BY_STEP": False,  # the learning rate changes after every step
    "LR_MIN": 0.0,  # where the cosine ends
}


def check_optim(optim: CfgNode) -> None:
    """Check the keys that Dassl does not have.

    Raises:
        UserError: a value means nothing, or no other schedule than the cosine has it.
    """
    if not 0 <= optim.STEPS < 2**63:
        raise UserError(f"OPTIM.STEPS is {optim.STEPS} but must be a whole number, 0 or more")
    if not 0 <= optim.ADAM_EPS < 1:
        raise UserError(f"OPTIM.ADAM_EPS is {optim.ADAM_EPS} but must be from 0 to 1")
    if not 0 <= optim.LR_MIN <= optim.LR:
        raise UserError(
            f"OPTIM.LR_MIN is {optim.LR_MIN} but must be from 0 to OPTIM.LR ({optim.LR})"
        )
    if optim.LR_MIN and optim.LR_SCHEDULER != "cosine":
        raise UserError(
            f"OPTIM.LR_MIN is {optim.LR_MIN}, which needs OPTIM.LR_SCHEDULER cosine and not "
            f"{optim.LR_SCHEDULER}"
        )


def epochs(optim: CfgNode, n: int) -> int:
    """E."""
    return math.ceil(optim.STEPS / n) if optim.STEPS else optim.MAX_EPOCH


def steps(optim: CfgNode, n: int) -> int:
    """Those of the whole training."""
    return optim.STEPS or optim.MAX_EPOCH * n


def by_step(optim: CfgNode) -> bool:
    """True where the learning rate changes after every step."""
    return bool(optim.STEPS or optim.LR_BY_STEP)


def build_optim(model: nn.Module, optim: CfgNode, n: int) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser of what is trained, and its scheduler.

    Where the learning rate changes by step, all that Dassl counts in epochs is counted in steps,
    the warm-up included.
    """
    from dassl.optim import build_lr_scheduler, build_optimizer  # only a training needs Dassl

    optimizer = build_optimizer(model, optim)
    for group in optimizer.param_groups:
        if "eps" in group:
            group["eps"] = optim.ADAM_EPS
    if optim.STEPS:
        E = epochs(optim, n)
        print(f"{optim.STEPS} steps: {E} epochs of {n}, the last of {optim.STEPS - (E - 1) * n}")
    if by_step(optim):
        optim = optim.clone()
        optim.defrost()
        optim.MAX_EPOCH = steps(optim, n)
        optim.WARMUP_EPOCH *= n
        optim.STEPSIZE = [size * n for size in optim.STEPSIZE]
    scheduler = build_lr_scheduler(optimizer, optim)
    final: LRScheduler = getattr(scheduler, "successor", scheduler)
    if isinstance(final, CosineAnnealingLR):
        final.eta_min = optim.LR_MIN
    return optimizer, scheduler


class FirstBatches:
    """A loader of the first batches of another one: an epoch that ends early."""

    def __init__(self, loader: Any, count: int):
        self.loader, self.count = loader, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.count)
