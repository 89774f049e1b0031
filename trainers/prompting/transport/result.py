"""The result of the transport solver, and the gradient of its distance."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class SinkhornResult(NamedTuple):
    """The solutions of a batch of problems.

    Attributes:
        plan: T, shape (..., P, L), without gradient; exactly 0 where a weight is 0.
        distance: <T, C>, shape (...). T is a constant in the backward pass: the gradient with
            respect to `cost` is T, and nothing else has a gradient.
        iterations: number of updates of u of each problem, shape (...). After the fourth,
            convergence is tested at every fourth.
        marginal_error: L1 error of the marginal that is not exact, shape (...).
    """

    plan: Tensor
    distance: Tensor
    iterations: Tensor
    marginal_error: Tensor


class PlanDistance(torch.autograd.Function):
    """<T, C> with T constant: the value that the solver found, with T as its gradient.

    Computed by autograd, it would include costs without mass, which may be nan.
    """

    @staticmethod
    def forward(ctx: Any, cost: Tensor, plan: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(plan)
        ctx.dtype = cost.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the gradient of the costs: T times that of the value."""
        (plan,) = ctx.saved_tensors
        return (grad[..., None, None] * plan).to(ctx.dtype), None, None


def joined(parts: list[SinkhornResult]) -> SinkhornResult:
    """Concatenate the results of problems that were solved in parts."""
    return (
        parts[0] if len(parts) == 1 else SinkhornResult(*map(torch.cat, zip(*parts, strict=True)))
    )
