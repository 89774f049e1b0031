"""Sinkhorn's iteration as one loop over tensors, for `torch.export` and `torch.compile`.

`solver` and `released` cut problems into pieces, let the converged ones go and look at numbers on
the way, none of which a program without Python can do. Here all problems go on together until the
last one has converged; each keeps the scalings that it had then, so the results are the same.
Letters as in `scalings`.
"""

import math

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ..errors import UserError
from .result import SinkhornResult
from .scalings import column_means, exponent_bound, exponents, widest


def sinkhorn_loop(cost, a, b, reg: float, tol: float, max_iter: int, spread) -> SinkhornResult:
    """As `solver.Sinkhorn`, whose `reg`, `tol`, `max_iter` and `spread` these are, of finite costs.

    Raises:
        UserError: `reg` is so small that scalings overflow.
    """
    dtype = torch.float32
    if spread is None or spread > reg * exponent_bound(dtype):
        dtype = widest(cost.device)
    if spread is not None and spread > reg * exponent_bound(dtype):
        raise UserError(
            f"LAMBDA is {reg}: a program needs at least {spread / exponent_bound(dtype):.2g}, or "
            "the scalings of its transport overflow"
        )
    C, a, b = _in_a_row(cost, a, b, dtype)
    K = exponents(C, column_means(C, a[:, 0]), reg).exp()

    def goes_on(t, v, active):
        return (t <= max_iter) & active.any()

    def update(t, v, active):
        u = a / torch.bmm(v, K)
        w = torch.bmm(K, u.mT).mT
        tests = (t <= 4) | (t % 4 == 0) | (t == max_iter)
        error = (v * w - b).abs().sum(-1, keepdim=True)
        active = (tests & (error > tol)) | (~tests & active)
        v = torch.where(active & (t < max_iter), b / w, v)
        return t + 1, v, active

    v = (b > 0).to(dtype)
    t, v, active = while_loop(goes_on, update, (_one(v), v, torch.ones_like(v[..., :1]) > 0))
    u = a / torch.bmm(v, K)
    error = (v * torch.bmm(K, u.mT).mT - b).abs().sum(-1)
    return _result(cost, C, K * u * v.mT, t - 1, error)


def released_loop(cost, a, b, reg, tol, max_iter, group_dims: int) -> SinkhornResult:
    """As `released.sinkhorn_released`."""
    C, a, b = _in_a_row(cost, a, b, torch.float32)
    K = torch.exp(C / -reg)
    batch = cost.shape[:-2]
    size = math.prod(batch[len(batch) - group_dims :])
    whole = group_dims == len(batch)  # all problems are one group

    def sums(x):  # over each group, (n, 1, 1), or (1, 1, 1) of one group
        if whole:
            return x.sum().view(1, 1, 1)
        total = x.reshape(-1, size * x.shape[-1] * x.shape[-2]).sum(1, keepdim=True)
        return total.expand(-1, size).reshape(-1, 1, 1)

    def goes_on(t, u, v, active):
        return (t <= max_iter) & active.any()

    def update(t, u, v, active):
        new = torch.where(active, a / torch.bmm(v, K), u)
        v = torch.where(active, b / torch.bmm(K, new.mT).mT, v)
        change = sums((new - u).abs()) / rows
        return t + 1, new, v, ~(change < tol)

    u, v = (a > 0).float(), (b > 0).float()
    rows = sums(u)
    t, u, v, _ = while_loop(goes_on, update, (_one(v), u, v, torch.ones_like(rows) > 0))
    T = K * u * v.mT
    T = torch.where(sums(T.isnan().float()) > 0, K, T)
    T = torch.where((a > 0) & (b > 0).mT, T, 0)
    return _result(cost, C, T, t - 1, (T.sum(1) - a[:, 0]).abs().sum(-1))


def _in_a_row(cost: Tensor, a: Tensor | None, b: Tensor | None, dtype) -> tuple:
    """C (n, L, P), a (n, 1, P) and b (n, 1, L)."""
    *batch, P, L = cost.shape
    a = cost.new_full((P,), 1 / P) if a is None else a
    b = cost.new_full((L,), 1 / L) if b is None else b
    b = b * (a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True))
    C = cost.detach().reshape(-1, P, L).mT.to(dtype)
    a, b = a.expand(*batch, P).reshape(-1, 1, P), b.expand(*batch, L).reshape(-1, 1, L)
    return C, a.to(dtype), b.to(dtype)


def _one(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.long, device=like.device)


def _result(cost, C, T, iterations, error) -> SinkhornResult:
    batch = cost.shape[:-2]
    dtype = cost.dtype if cost.dtype == torch.float64 else torch.float32
    return SinkhornResult(
        (T * C).sum((1, 2)).to(dtype).reshape(batch),
        iterations.expand(error.shape).reshape(batch),
        error.to(dtype).reshape(batch),
        lambda: T.mT.to(dtype).reshape(cost.shape),
    )
