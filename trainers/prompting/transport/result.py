"""Transport problems in a row, and what solving them comes to.

Letters as in `scalings`; n problems stand in a row where the batch has become one dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Problems(NamedTuple):
    """n problems: C (n, P, L), a (n, P), b (n, L), and whether some weights are 0."""

    C: Tensor
    a: Tensor
    b: Tensor
    padded: bool


def in_a_row(cost: Tensor, a: Tensor, b: Tensor, padded: bool) -> Problems:
    """The batch dimensions as one, without history."""
    *batch, P, L = cost.shape
    n = math.prod(batch)
    return Problems(cost.detach().reshape(n, P, L), a.reshape(n, P), b.reshape(n, L), padded)


@dataclass(eq=False)
class SinkhornResult:
    """Solved problems.

    Attributes:
        distance: <T, C>, shape (...). T is a constant in the backward pass, so the gradient with
            respect to `cost` is T, and there is no other.
        iterations: how often each problem updated u, shape (...). After the fourth, convergence
            is tested at every fourth.
        marginal_error: L1 error of the marginal that is not exact, shape (...).
    """

    distance: Tensor
    iterations: Tensor
    marginal_error: Tensor
    _derive_plan: Callable[[], Tensor]

    @cached_property
    def plan(self) -> Tensor:
        """T, shape (..., P, L), without gradient; exactly 0 where a weight is 0.

        Many plans take much memory, and whoever wants the distances alone never looks at them.
        Their v are kept instead, and half an iteration makes the plans when they are asked for.
        """
        return self._derive_plan()


class Solution:
    """What solving n problems comes to, filled in a piece at a time.

    Attributes:
        value, iterations, error: <T, C>, updates of u and L1 error of a marginal, each (n).
        plan: a function that gives T (n, P, L).
    """

    def __init__(self, problems: Problems, plan: Callable[[], Tensor]):
        n, a = len(problems.C), problems.a
        self.value, self.error = a.new_empty(n), a.new_empty(n)
        self.iterations = torch.empty(n, dtype=torch.long, device=a.device)
        self.plan = plan

    def put(self, at, value: Tensor, iterations: Tensor, error: Tensor) -> None:
        """Sets what the problems at an index came to."""
        self.value[at] = value.to(self.value.dtype)
        self.iterations[at] = iterations.view(-1)
        self.error[at] = error.view(-1).to(self.error.dtype)

    def result(self, cost: Tensor) -> SinkhornResult:
        """In the shape of the batch of `cost`, the distance with its gradient."""
        batch = cost.shape[:-2]
        distance = self.value.view(batch)
        if cost.requires_grad and torch.is_grad_enabled():
            distance = PlanDistance.apply(cost, self.plan().view(cost.shape), distance)
        return SinkhornResult(
            distance,
            self.iterations.view(batch),
            self.error.view(batch),
            lambda: self.plan().view(cost.shape),
        )


class PlanDistance(torch.autograd.Function):
    """<T, C> with T constant: hands back the value that the solver found, and T as gradient."""

    @staticmethod
    def forward(ctx, cost, plan, value):
        ctx.save_for_backward(plan)
        ctx.dtype = cost.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (plan,) = ctx.saved_tensors
        return (grad[..., None, None] * plan).to(ctx.dtype), None, None
