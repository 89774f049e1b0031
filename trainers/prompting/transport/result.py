"""The result of solving transport problems."""

from typing import NamedTuple

import torch
from torch import Tensor


class SinkhornResult(NamedTuple):
    """Solved problems.

    Attributes:
        plan: T, shape (..., P, L), without gradient; exactly 0 where a weight is 0.
        distance: <T, C>, shape (...). T is a constant in the backward pass, so the gradient with
            respect to `cost` is T, and there is no other.
        iterations: how often each problem updated u, shape (...). After the fourth, convergence
            is tested at every fourth.
        marginal_error: L1 error of the marginal that is not exact, shape (...).
    """

    plan: Tensor
    distance: Tensor
    iterations: Tensor
    marginal_error: Tensor


class PlanDistance(torch.autograd.Function):
    """<T, C> with T constant: returns the value that the solver found, with T as its gradient.

    Autograd's own would multiply costs without mass, which may be nan.
    """

    @staticmethod
    def forward(ctx, cost, plan, value):
        """The value; nothing is computed."""
        ctx.save_for_backward(plan)
        ctx.dtype = cost.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """T times the gradient, for the costs."""
        (plan,) = ctx.saved_tensors
        return (grad[..., None, None] * plan).to(ctx.dtype), None, None
