"""One training step of a method, for the trainer and the speed benchmark."""

import torch

from .errors import UserError, need
from .method import Batch, Method, Output
from .running.precision import Precision


def training_step(
    method: Method, batch: Batch, optimizer: torch.optim.Optimizer, precision: Precision
) -> tuple[Output, dict[str, torch.Tensor]]:
    """Do one training step: forward, backward, update.

    Returns:
        The output, and the terms of the loss by name, including the total `loss`.

    Raises:
        UserError: a term is not a scalar, or `backward` leaves no gradient.
    """
    with precision.autocast():
        output = method.output(batch.images)
        terms = method.terms(output, batch)
    name = type(method).__name__
    bad = [key for key, x in terms.items() if not (torch.is_tensor(x) and x.numel() == 1)]
    need(not bad, f"The loss of {name} must be a scalar, or scalars by name, but {bad} are not")
    update(method, terms, optimizer, precision)
    return output, terms


def update(
    method: Method,
    terms: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
) -> None:
    """Compute gradients from the terms of a loss, and take the optimiser's step.

    Raises:
        UserError: `backward` leaves no gradient.
    """
    optimizer.zero_grad(set_to_none=True)
    method.backward(terms, precision.scaler.scale)
    gradients = [p.grad for p in method.learned().values()]
    if all(gradient is None for gradient in gradients):
        raise UserError(
            f"`backward` of {type(method).__name__} leaves no gradient in any trained parameter: "
            "call `backward` of a loss that depends on them, or set their `.grad`"
        )
    precision.scaler.step(optimizer)
    precision.scaler.update()
