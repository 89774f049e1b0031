"""Checks of a method while a run uses it; a plug-in is also built again from its state."""

from typing import Any

import torch

from ..contract import check_logits
from ..method import Output
from .checks import check_first_step, check_optimised
from .evaluation import is_foreign
from .repeatability import check_rebuilt


class InUse:
    """The checks of a `PromptTrainer`'s method, after its first step and after epochs."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.stepped = False  # True after the first step
        self.rebuilt_in = -1  # the stage in which the method was last built again from its state

    def after_step(self, output: Output, terms: dict[str, torch.Tensor]) -> None:
        """Check the first step: its logits, and what it trains."""
        if self.stepped:
            return
        method = self.trainer.method
        check_logits(method, output)
        check_first_step(method, terms)
        check_optimised(method, self.trainer.optim, self.trainer.stages.learned())
        self.stepped = True

    def after_epoch(self) -> None:
        """Check that the optimiser still follows what is learned."""
        check_optimised(self.trainer.method, self.trainer.optim, self.trainer.stages.learned())

    def at_end(self, last: bool) -> None:
        """Build a plug-in again after the first epoch of each stage, and after the last one."""
        current = self.trainer.stages.current
        if is_foreign(self.trainer.kind) and (last or self.rebuilt_in != current):
            self.rebuild()
            self.rebuilt_in = current

    def rebuild(self) -> None:
        """Check that the method computes the same when it is built again from its state."""
        check_rebuilt(self.trainer)
