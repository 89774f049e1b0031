"""Sinkhorn's iteration as in the published code of ALIGN and PLOT, for the scores that follow it.

arXiv:2309.13847 and arXiv:2210.01253; docs/methods.md, section 3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .scalings import Scalings
from .solver import Sinkhorn, SinkhornResult


def sinkhorn_released(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-2,
    max_iter: int = 100,
    group_dims: int | None = None,
) -> SinkhornResult:
    """Solve problems as the published code of ALIGN and PLOT does (see `Released`).

    Args:
        cost: C, shape (..., P, L), floating.
        a: weights of the rows, (..., P), as in `sinkhorn`.
        b: weights of the columns, (..., L).
        tol: a group of problems stops as soon as u changes by less than this on average.
        max_iter: the most updates of u.
        group_dims: number of trailing batch dimensions that make a group; None is all of them.

    Raises:
        ValueError: as `sinkhorn`, but not for the values of costs.
    """
    batch = cost.shape[:-2]
    dims = len(batch) if group_dims is None else group_dims
    size = None if dims == len(batch) else math.prod(batch[len(batch) - dims :]) or 1
    return Released(reg, tol, max_iter, size=size)(cost, a, b)


@dataclass(frozen=True)
class Released(Sinkhorn):
    """The solver of the published code: the loop of `Sinkhorn` with other steps.

    K = exp(-C / reg) is not shifted, u and v start at 1, and a group of problems stops as soon as
    the mean of |u - previous u| over the group is below `tol`. Then v is updated once more. If the
    plans of a group have a nan, K takes the place of its plans, so no costs are refused.
    """

    size: int | None = None  # number of consecutive problems in a group; None is all

    def scalings(self, C, a, b, padding):
        """Yield the steps for K = exp(-C / reg), for all problems."""
        yield slice(None), C, Scalings.of(C / -self.reg, a, b)

    def start(self, scalings):
        """Return the first u and v: 1 where there is mass, else 0."""
        return tuple((x > 0).to(x.dtype) for x in (scalings.a, scalings.b))

    def waits(self, t):
        """Return False: every iteration tests for convergence."""
        return False

    def unfinished(self, scalings, before, u, v, w):
        """Return True for problems in whose group u still changes."""
        change, rows = self.of_groups((u - before).abs(), (scalings.a > 0).to(u.dtype))
        return ~(change / rows < self.tol)

    def finish(self, scalings, state):
        """Return T, and the L1 error of its row sums, (n,)."""
        T = scalings.kernel * state.u * scalings.v(state.w).mT
        (broken,) = self.of_groups(T.isnan().to(T.dtype))
        T = torch.where(broken > 0, scalings.kernel, T)
        T = torch.where((scalings.a > 0) & (scalings.b > 0).mT, T, 0)
        return T, (T.sum(1, keepdim=True) - scalings.a).abs().sum((1, 2))

    def chunk_size(self, C):
        """Return a chunk size that is a multiple of the group size."""
        return self.size * max(1, super().chunk_size(C) // self.size) if self.size else len(C)

    def of_groups(self, *numbers: Tensor) -> Tensor:
        """Return sums of numbers (n, ...) over problems' groups, (_, n, 1, 1) or (_, 1, 1, 1)."""
        sums = torch.stack([x.flatten(1).sum(1) for x in numbers])
        if self.size is None:
            sums = sums.sum(1, keepdim=True)
        else:
            sums = sums.unflatten(1, (-1, self.size)).sum(2).repeat_interleave(self.size, 1)
        return sums[..., None, None]
