"""The optimiser and the scheduler of a training, counted in epochs as in Dassl, or in steps.

Letters: E epochs of n steps each; the last epoch may have fewer.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from yacs.config import CfgNode

NONE = nn.Parameter(torch.empty(0))  # of optimisers that have nothing to learn


def build_optim(
    learned: Mapping[str, nn.Parameter],
    optim: CfgNode,
    n: int,
    rates: Mapping[str, float] = MappingProxyType({}),
    sgd: tuple[str, ...] = (),
) -> tuple[torch.optim.Optimizer, Any]:
    """Build the optimiser of what is learned, by name, and its scheduler.

    OPTIM.NEW_LAYERS names the first parts of names; `rates` and `sgd` are as those of a method.
    Where nothing is learned, the optimiser has an empty parameter. If the learning rate changes by
    step, everything that Dassl counts in epochs is counted in steps, including the warm-up.
    """
    from dassl.optim import build_lr_scheduler, build_optimizer  # only a training needs Dassl

    parts: dict[str, nn.ParameterList] = {}
    for name, parameter in learned.items():
        parts.setdefault(name.partition(".")[0], nn.ParameterList()).append(parameter)
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    by_rate: dict[Any, list[nn.Parameter]] = {} if learned else {(1.0, False): [NONE]}
    for name, parameter in learned.items() if rates or sgd else ():
        start = max(filter(name.startswith, rates), key=len, default="")
        group = rates.get(start, 1.0), name.startswith(sgd)
        by_rate.setdefault(group, []).append(parameter)
    groups = [{"params": own, "lr": rate * optim.LR} for (rate, _), own in by_rate.items()]
    optimizer: Any = build_optimizer(model, optim, groups or None)
    if sgd and optim.NAME == "adamw":
        optimizer = AdamWAndSGD(optimizer.param_groups, [*by_rate], optim)
    for group in optimizer.param_groups:
        if "eps" in group:
            group["eps"] = optim.ADAM_EPS
    if optim.STEPS:
        E = epochs(optim, n)
        print(f"{optim.STEPS} steps: {E} epochs of {n}, the last of {optim.STEPS - (E - 1) * n}")
    if by_step(optim):
        optim = optim.clone()
        optim.defrost()
        optim.MAX_EPOCH = optim.COSINE_STEPS or steps(optim, n)
        optim.WARMUP_EPOCH *= n
        optim.STEPSIZE = [size * n for size in optim.STEPSIZE]
    scheduler = build_lr_scheduler(optimizer, optim)
    final: LRScheduler = getattr(scheduler, "successor", scheduler)
    if isinstance(final, CosineAnnealingLR):
        final.eta_min = optim.LR_MIN
    return optimizer, scheduler


class AdamWAndSGD(torch.optim.AdamW):
    """AdamW that trains some groups of parameters by SGD, with momentum.

    Args:
        groups: groups of parameters, as of AdamW.
        kinds: of each group its rate, and whether SGD trains it.
        optim: OPTIM, of which SGD reads MOMENTUM.
    """

    def __init__(self, groups: Any, kinds: Sequence[tuple[float, bool]], optim: CfgNode):
        super().__init__(groups)
        for group, (_, by_sgd) in zip(self.param_groups, kinds, strict=True):
            group["momentum"] = optim.MOMENTUM if by_sgd else None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do a step of either."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if group["momentum"] is None]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in (group for group in groups if group["momentum"] is not None):
            for p in (p for p in group["params"] if p.grad is not None):
                change = p.grad.add(p, alpha=group["weight_decay"])
                state = self.state[p]
                state.setdefault("step", torch.zeros(()))  # without which AdamW loads no state
                held = state.setdefault("momentum_buffer", torch.zeros_like(p))
                held.mul_(group["momentum"]).add_(change)
                p.add_(held, alpha=-group["lr"])
        return loss


def epochs(optim: CfgNode, n: int) -> int:
    """Return E, the number of epochs."""
    return math.ceil(optim.STEPS / n) if optim.STEPS else optim.MAX_EPOCH


def steps(optim: CfgNode, n: int) -> int:
    """Return the number of steps of the whole training."""
    return optim.STEPS or optim.MAX_EPOCH * n


def by_step(optim: CfgNode) -> bool:
    """Return True if the learning rate changes after every step, and not after every epoch."""
    return bool(optim.STEPS or optim.LR_BY_STEP)
