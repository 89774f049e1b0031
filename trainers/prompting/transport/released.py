"""Sinkhorn's iteration as the published code of ALIGN and PLOT has it, to compare with.

arXiv:2309.13847 and arXiv:2210.01253; docs/methods.md, section 3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .result import SinkhornResult
from .scalings import Scalings
from .solver import Sinkhorn


def sinkhorn_released(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-2,
    max_iter: int = 100,
    group_dims: int | None = None,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> SinkhornResult:
    """Solves as the published code of ALIGN and PLOT does (`Released`); else as `sinkhorn`.

    Args:
        cost: C, shape (..., P, L), floating.
        a: weights of the rows, (..., P), as in `sinkhorn`.
        b: weights of the columns, (..., L).
        reg: the regularisation.
        tol: a group of problems stops once u changes by less than this on average.
        max_iter: updates of u at most.
        group_dims: how many of the last batch dimensions make a group; None is all of them.
        total: adds up a number of each group over what shares it, such as other processes.

    Raises:
        ValueError: as `sinkhorn`, but for costs; there are fewer dimensions than `group_dims`.
    """
    batch = cost.shape[:-2] if torch.is_tensor(cost) else ()
    dims = len(batch) if group_dims is None else group_dims
    if not 0 <= dims <= len(batch):
        raise ValueError(f"group_dims is {dims}, but cost has {len(batch)} batch dimensions")
    size = None if dims == len(batch) else math.prod(batch[len(batch) - dims :]) or 1
    return Released(reg, tol, max_iter, size=size, total=total)(cost, a, b)


@dataclass(frozen=True)
class Released(Sinkhorn):
    """The released form: other parts of the same loop.

    K is taken as it is, u and v start at 1, and a group of problems stops once the mean of
    |u - previous u| over it is below `tol`. Then v is updated once more. A group with a nan in its
    plans has K for plans, so nothing is refused for its costs.

    Attributes:
        size: how many problems in a row make a group; None is all.
        total: as in `sinkhorn_released`.
    """

    size: int | None = None
    total: Callable[[Tensor], Tensor] = lambda part: part

    def scalings(self, C, a, b, padding):
        """The steps for K = exp(-C / reg), for all problems."""
        yield slice(None), C, Scalings.of(C / -self.reg, a, b)

    def start(self, scalings):
        """Both u and v are 1 where there is mass."""
        return tuple((x > 0).to(x.dtype) for x in (scalings.a, scalings.b))

    def waits(self, t):
        """Every iteration tests."""
        return False

    def unfinished(self, scalings, before, u, v, w):
        """True where u still changes in a problem's group."""
        change, rows = self.of_groups((u - before).abs(), (scalings.a > 0).to(u.dtype))
        return ~(change / rows < self.tol)

    def finish(self, scalings, state):
        """T, and the L1 error of its row sums, (n, 1, 1)."""
        T = scalings.kernel * state.u * scalings.v(state.w).mT
        (broken,) = self.of_groups(T.isnan().to(T.dtype))
        T = torch.where(broken > 0, scalings.kernel, T)
        T = torch.where((scalings.a > 0) & (scalings.b > 0).mT, T, 0)
        return T, (T.sum(1, keepdim=True) - scalings.a).abs().sum(-1, keepdim=True)

    def chunk_size(self, C):
        """As many problems as make whole groups."""
        return self.size * max(1, super().chunk_size(C) // self.size) if self.size else len(C)

    def of_groups(self, *numbers: Tensor) -> Tensor:
        """Sums of the numbers (n, ...) over each problem's group, (_, n, 1, 1) or (_, 1, 1, 1)."""
        sums = torch.stack([x.flatten(1).sum(1) for x in numbers])
        if self.size is None:
            sums = self.total(sums.sum(1, keepdim=True))
        else:
            sums = self.total(sums.unflatten(1, (-1, self.size)).sum(2))
            sums = sums.repeat_interleave(self.size, 1)
        return sums[..., None, None]
