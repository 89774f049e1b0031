"""One training step of a method, for the trainer and the speed benchmark."""

import torch

from .capabilities.staged import Staged
from .method import Batch, Method, Output
from .running.memory import within_memory
from .running.precision import Precision


def training_step(
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    clip_norm: float = 0.0,
) -> tuple[Output, dict[str, torch.Tensor]]:
    """Do one training step: forward, backward, update, `after_step`.

    With `clip_norm`, gradients of a larger norm, over all that the optimiser updates, get this one.

    Returns:
        The output, and the terms of the loss by name, including the total `loss`.
    """

    def gradients() -> tuple[Output, dict[str, torch.Tensor]]:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            output = method.output(batch.images)
            terms = method.terms(output, batch)
        method.backward(terms, precision.scaler.scale)
        return output, terms

    output, terms = within_memory(method, gradients)
    if clip_norm:
        precision.scaler.unscale_(optimizer)
        updated = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(updated, clip_norm)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    if isinstance(method, Staged):
        method.after_step()
    return output, terms
