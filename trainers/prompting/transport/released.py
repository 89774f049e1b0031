"""Sinkhorn's iteration as the published code of ALIGN and PLOT has it, to compare with.

Letters as in `scalings`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .inputs import check_settings, weights
from .loops import released_loop
from .precision import full_precision
from .result import SinkhornResult, Solution, in_a_row
from .scalings import Scalings
from .solver import chunk_size, columns_first, looks_are_free


def sinkhorn_released(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-2,
    max_iter: int = 100,
    group_dims: int | None = None,
    padded: bool | None = None,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> SinkhornResult:
    """What the published code of ALIGN and PLOT computes; else as `sinkhorn`.

    u and v start at 1, K is taken as it is, and a whole group of problems stops once the mean of
    |u - previous u| over it is below `tol`. A group with a nan in its plans has K for plans, so
    nothing is refused for its costs.

    Args:
        group_dims: how many of the last batch dimensions make a group; None is all of them.
        padded: whether some weights are 0; None looks.
        total: adds up a number of each group over what shares it, such as other processes.
    """
    check_settings(reg, tol, max_iter)
    if torch.compiler.is_compiling():
        dims = cost.dim() - 2 if group_dims is None else group_dims
        return released_loop(cost, a, b, reg, tol, max_iter, dims)
    a_full, b_full = weights(cost, a, b)
    if padded is None:
        padded = not all(w is None or bool((w > 0).all()) for w in (a, b))
    batch = cost.shape[:-2]
    group_dims = len(batch) if group_dims is None else group_dims
    if not 0 <= group_dims <= len(batch):
        raise ValueError(f"group_dims is {group_dims}, but cost has {len(batch)} batch dimensions")
    size = max(1, batch[len(batch) - group_dims :].numel())
    problems = in_a_row(cost, a_full, b_full, padded)
    n = len(problems.C)
    plan = torch.empty_like(problems.C, dtype=a_full.dtype)
    solution = Solution(problems, lambda: plan)
    step = size * max(1, chunk_size(plan) // size)
    with full_precision(cost.device.type):
        for start in range(0, n, step):
            at = slice(start, start + step)
            C, a_, b_ = (x[at] for x in problems[:3])
            c, padding = columns_first(C, a_, b_, padded)
            steps = Scalings(torch.exp(c / -reg), a_[:, None], b_[:, None])
            T, count = _iterate_groups(steps, size, tol, max_iter, total)
            if padding is not None:
                T.masked_fill_(padding, 0)
            plan[at] = T.transpose(1, 2)
            error = (T.sum(1) - a_).abs().sum(-1)
            solution.put(at, T.mul_(c).sum((1, 2)), count, error)
    return solution.result(cost)


def _iterate_groups(steps, size, tol, max_iter, total):
    """Updates u and v of groups of `size` problems; returns T (n, L, P) and counts (n, 1, 1).

    As in `Sinkhorn.iterate`, only the CPU stops before `max_iter`, when the last group has.
    """
    looks = looks_are_free(steps.kernel.device)
    n = len(steps.kernel)
    groups = n // size
    dtype = steps.kernel.dtype
    u, v = (steps.a > 0).to(dtype), (steps.b > 0).to(dtype)
    rows = total(u.view(groups, -1).sum(1))
    active = torch.ones(n, 1, 1, dtype=torch.bool, device=u.device)
    count = torch.zeros(n, 1, 1, dtype=torch.long, device=u.device)
    for _ in range(max_iter):
        previous, u = u, torch.where(active, steps.u(v), u)
        v = torch.where(active, steps.v(steps.w(u)), v)
        count += active
        change = total((u - previous).abs().view(groups, -1).sum(1)) / rows
        active = ~(change < tol).repeat_interleave(size).view(n, 1, 1)
        if looks and not active.any():
            break
    T = steps.kernel * u * v.mT
    broken = total(T.view(groups, -1).isnan().sum(1)) > 0
    broken = broken.repeat_interleave(size).view(n, 1, 1)
    return torch.where(broken, steps.kernel, T), count
