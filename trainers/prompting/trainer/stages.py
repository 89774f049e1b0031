"""The stages of a training: what is learned in each, and its optimiser.

A method that trains in one stage, as most do, is not concerned. With several, the learning rate
changes by step, each stage has its own schedule, and stages may end inside an epoch.
"""

from itertools import accumulate
from typing import Any

import torch
from yacs.config import CfgNode

from ..capabilities.staged import stages_of
from ..errors import UserError, need
from ..method import Method
from .schedule import build_optim, by_step, steps


class Stages:
    """The stages of a method's training, in epochs of n steps.

    Attributes:
        by_step: True if the learning rate changes after every step, and not after every epoch.
        clip_norm: the largest norm of the gradients of the current stage; 0 if there is none.
    """

    def __init__(self, method: Method, optim: CfgNode, n: int):
        self.method, self.optim, self.n = method, optim, n
        for names in method.rates:
            need(
                any(name.startswith(names) for name in method.learned()),
                f"`rates` of {type(method).__name__} has '{names}', but it learns nothing of that "
                f"name: choose beginnings of {', '.join(method.learned())}",
            )
        need(
            not (method.rates and optim.STAGED_LR),
            f"OPTIM.STAGED_LR is True, but {type(method).__name__} has `rates` of its own: leave "
            "one of them out",
        )
        self.stages, total = list(stages_of(method)), steps(optim, n)
        self.ends = [int(share * total) for share in accumulate(s.share for s in self.stages)]
        self.ends[-1] = total
        self.starts = [0, *self.ends[:-1]]
        self.current = self.at(0)
        self.by_step = len(self.stages) > 1 or by_step(optim)
        for start, end in zip(self.starts, self.ends, strict=True):
            if start >= end:
                raise UserError(
                    f"{type(method).__name__} trains in {len(self.stages)} stages, but one of them "
                    f"has none of the {total} steps: train longer (OPTIM.STEPS), or change the "
                    "share of a stage"
                )

    def at(self, step: int) -> int:
        """Return the number of the stage of a step, both from 0."""
        return next((i for i, end in enumerate(self.ends) if step < end), len(self.ends) - 1)

    def begins(self, step: int) -> bool:
        """Return True if a stage after the first begins with this step."""
        return step > 0 and step in self.starts

    def learned(self) -> dict[str, torch.nn.Parameter]:
        """Return what the current stage trains, by name."""
        first = self.stages[self.current].parameters
        return {name: p for name, p in self.method.learned().items() if name.startswith(first)}

    def optimizer(self, step: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make the optimiser and scheduler of the stage of a step, and let only it learn."""
        i = self.current = self.at(step)
        stage = self.stages[i]
        if len(self.stages) > 1:
            for name, parameter in self.method.learned().items():
                parameter.requires_grad_(name.startswith(stage.parameters))
        optim = self.optim
        if len(self.stages) > 1:
            optim = optim.clone()
            optim.defrost()
            optim.update(stage.optim)
            optim.STEPS = self.ends[i] - self.starts[i]
            print(f"Stage {i + 1} of {len(self.stages)}: {', '.join(stage.parameters)}")
        self.clip_norm = float(optim.CLIP_NORM)
        return build_optim(self.learned(), optim, self.n, self.method.rates, self.method.sgd)
