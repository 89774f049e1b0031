"""Batched entropic optimal transport: many small problems at once, each judged on its own.

A problem has costs C and weights a of its P rows and b of its L columns, of equal mass. Its
entropic plan is

    T = argmin <T, C> - reg * H(T)   over T >= 0 with T 1 = a and T' 1 = b
      = diag(u) K diag(v),           K = exp(-C / reg)                   (Cuturi 2013, Lemma 2)

and Sinkhorn's iteration (Algorithm 1) finds the scalings:

    u = a / (K v)
    w = K' u          v w are the plan's column sums; its row sums are exact
    v = b / w

ALIGN solves it between the tokens of each pair of prompts, and again between the prompts (Eq. 4-8).

In code n problems stand in a row where the batch has become one dimension, and columns come before
rows, since products along rows are several times as fast: C, K and T are (n, L, P); a and u
(n, 1, P); b, v and w (n, 1, L). x are the exponents of K.

Cuturi. Sinkhorn Distances: Lightspeed Computation of Optimal Transport. NeurIPS 2013.
arXiv:1306.0895.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from .inputs import check_settings, weights
from .precision import full_precision
from .result import PlanDistance, SinkhornResult
from .scalings import LogScalings, Scalings, exponent_bound, widest


def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-4,
    max_iter: int = 100,
) -> SinkhornResult:
    """Entropic transport plans and distances of a batch of problems (Cuturi 2013, Algorithm 1).

    A problem's result never depends on the others: each has its own count of iterations and its
    own arithmetic. That is float32, or float64 if `cost` is; where `reg` is small against the
    costs, float64 in any case, because there rounding errors grow.

    Costs that lie in memory as (..., L, P), given as their transpose, are read faster.

    Args:
        cost: C, shape (..., P, L), floating.
        a: weights of the rows, (..., P), broadcast over the batch; None is uniform, mass 1. Where
            a weight is 0, plan and gradient are 0 for any cost, even nan. Values are
            checked on the CPU only: for another device the host would have to wait.
        b: weights of the columns, (..., L).
        reg: the regularisation (lambda in ALIGN, 1 / lambda in Cuturi 2013).
        tol: converged is a problem whose column sums have an L1 error of at most this, its row
            sums being exact. (POT takes the L2 norm, which is never larger.)
        max_iter: updates of u at most; a problem that has not converged is left as it is.

    Raises:
        ValueError: types, shapes, weights or numbers do not make a transport problem; a cost is
            nan or -inf where there is mass.

    Examples:
        >>> sinkhorn(1 - torch.eye(2)).plan.round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    return Sinkhorn(reg, tol, max_iter)(cost, a, b)


class State(NamedTuple):
    """The state of n problems in the iteration.

    Attributes:
        t: the iteration that comes next, from 1 on; a tensor in a program.
        u, v, w: as above, or their logarithms.
        active: whether a problem goes on, (n, 1, 1).
        iterations: how many a problem has had, (n, 1, 1).
    """

    t: int | Tensor
    u: Tensor
    v: Tensor
    w: Tensor
    active: Tensor
    iterations: Tensor


def joined(parts: list[SinkhornResult]) -> SinkhornResult:
    """Problems in a row that were solved in parts."""
    return (
        parts[0] if len(parts) == 1 else SinkhornResult(*map(torch.cat, zip(*parts, strict=True)))
    )


@dataclass(frozen=True)
class Sinkhorn:
    """The solver: `sinkhorn` with settings that are checked once.

    `iterate` is the loop; `scalings`, `start`, `waits`, `unfinished` and `finish` are its parts.
    `torch.export` traces the same loop: all problems of a program go on together.

    On an accelerator the host waits only for an unknown `spread`, once a chunk. There a known one
    chooses the arithmetic, and all `max_iter` iterations are computed: to stop earlier, the host
    would have to wait. A problem that has converged keeps its v, so the result is the same.

    Attributes:
        reg, tol, max_iter: as in `sinkhorn`.
        spread: a bound on how much the costs of a problem differ, where it is known. If float32
            can hold it over `reg`, nothing looks at the costs; nor on an accelerator, where the
            first arithmetic is taken that is safe up to there. Here nan comes out as nan.
    """

    reg: float = 0.1
    tol: float = 1e-4
    max_iter: int = 100
    spread: float | None = None

    def __post_init__(self) -> None:
        check_settings(self.reg, self.tol, self.max_iter)

    def __call__(
        self, cost: Tensor, a: Tensor | None = None, b: Tensor | None = None
    ) -> SinkhornResult:
        """Solves a batch of problems, as `sinkhorn`."""
        full_a, full_b = weights(cost, a, b)
        *batch, P, L = cost.shape
        n = math.prod(batch)
        C = cost.detach().reshape(n, P, L).mT
        full_a, full_b = full_a.reshape(n, 1, P), full_b.reshape(n, 1, L)
        chunks = [(C, full_a, full_b)]
        if not torch.compiler.is_compiling():
            size = self.chunk_size(C)
            chunks = [*zip(C.split(size), full_a.split(size), full_b.split(size), strict=True)]
        with full_precision(cost.device.type):
            found = joined([self.solve(*c, uniform=a is None and b is None) for c in chunks])
        plan = found.plan.mT.reshape(cost.shape)
        distance, iterations, error = (x.reshape(batch) for x in found[1:])
        if cost.requires_grad and torch.is_grad_enabled():
            distance = PlanDistance.apply(cost, plan, distance)  # type: ignore[no-untyped-call]
        return SinkhornResult(plan, distance, iterations, error)

    def solve(self, C: Tensor, a: Tensor, b: Tensor, uniform: bool) -> SinkhornResult:
        """Solves the problems of a chunk, whose plans are (n, L, P); `uniform`: no weight is 0."""
        C, padding = C.to(a.dtype).contiguous(), None
        if not uniform:
            padding = (a == 0) | (b == 0).mT
            C = C.masked_fill(padding, 0)
        solved: list[SinkhornResult] = []
        indices: list[Any] = []
        for index, costs, scalings in self.scalings(C, a, b, padding):
            state = self.iterate(scalings)
            plan, error = self.finish(scalings, state)
            distance = (plan * costs).sum((1, 2))
            plan, distance, error = (x.to(a.dtype) for x in (plan, distance, error[:, 0, 0]))
            solved.append(SinkhornResult(plan, distance, state.iterations[:, 0, 0], error))
            indices.append(index)
        if len(solved) == 1:
            return solved[0]
        back = torch.cat(indices).argsort()
        return SinkhornResult(*(x[back] for x in joined(solved)))

    def iterate(self, scalings: Scalings) -> State:
        """Updates u and v of each problem until it has converged; from then on it keeps its v."""
        traced = torch.compiler.is_compiling()
        looks = traced or looks_are_free(scalings.b.device)

        def goes_on(t: Any, u: Tensor, v: Tensor, w: Tensor, active: Tensor, n: Tensor) -> Any:
            return active.any() if looks else t <= self.max_iter

        def update(
            t: Any, before: Tensor, v: Tensor, w: Tensor, active: Tensor, iterations: Tensor
        ) -> tuple[Any, Tensor, Tensor, Tensor, Tensor, Tensor]:
            u = scalings.u(v)
            w = scalings.w(u)
            waits = self.waits(t)
            if traced or not waits:
                iterations = iterations.masked_fill(active, t)
                unfinished = self.unfinished(scalings, before, u, v, w) | waits
                active = active & unfinished & (t < self.max_iter)
            v = torch.where(active, scalings.v(w), v)
            return t + 1, u, v, w, active, iterations

        u, v = self.start(scalings)
        active = torch.ones_like(v[..., :1], dtype=torch.bool)
        iterations = torch.zeros_like(active, dtype=torch.long)
        t = torch.ones((), dtype=torch.long, device=v.device) if traced else 1
        state = t, u, v, torch.zeros_like(v), active, iterations
        if traced:
            return State(*while_loop(goes_on, update, state))
        while goes_on(*state):
            state = update(*state)
        return State(*state)

    # ------------------------------------------------------------------ the parts of the loop

    def scalings(
        self, C: Tensor, a: Tensor, b: Tensor, padding: Tensor | None
    ) -> Iterator[tuple[slice | Tensor, Tensor, Scalings]]:
        """The steps for costs C, which are 0 at `padding`: entries without mass.

        v absorbs any shift of a column. With x = (mean C - C) / reg, the mean taken over each
        column, numbers are near 1, and v = 1 is so good a start that the token level takes two or
        three iterations.

        Yields:
            for each arithmetic that is needed the index of its problems, their costs and steps.
        """
        mean = (torch.bmm(a, C.mT) / a.sum(-1, keepdim=True)).nan_to_num(0, 0, 0).mT
        if padding is not None:
            C = torch.where(padding, mean, C)
        shifted = mean - C
        for Steps, dtype, index in self.arithmetics(shifted):
            costs, x, *weights_ = (z[index].to(dtype) for z in (C, shifted, a, b))
            if dtype != C.dtype:  # without the rounding of what is narrower
                x = mean[index].to(dtype) - costs
            yield index, costs, Steps.of(x.div_(self.reg), *weights_)

    def arithmetics(self, shifted: Tensor) -> list[tuple[type[Scalings], torch.dtype, Any]]:
        """For each problem the first arithmetic that is safe, by its mean C - C.

        Raises:
            ValueError: see `sinkhorn`.
        """
        wide = widest(shifted.device)
        choices = [(Scalings, shifted.dtype), (Scalings, wide), (LogScalings, wide)]
        bounds = [self.reg * exponent_bound(dtype) for _, dtype in choices[:2]]
        traced, spread = torch.compiler.is_compiling(), self.spread
        if traced and spread is None:
            spread = math.inf
        looks = looks_are_free(shifted.device) and not traced
        if spread is not None and (spread <= bounds[0] or not looks):
            return [(*choices[sum(spread > bound for bound in bounds)], slice(None))]
        far = torch.linalg.vector_norm(shifted, math.inf, (1, 2))
        if bool((far <= bounds[0]).all()):
            return [(*choices[0], slice(None))]
        if spread is None and bool((shifted.isnan() | (shifted == math.inf)).any()):
            raise ValueError("cost has entries that are nan or -inf where there is mass")
        kinds = (far[:, None] > far.new_tensor(bounds)).sum(1)
        indices = [(kinds == kind).nonzero()[:, 0] for kind in range(len(choices))]
        return [(*c, index) for c, index in zip(choices, indices, strict=True) if len(index)]

    def start(self, scalings: Scalings) -> tuple[Tensor, Tensor]:
        """The first u, which nothing reads, and v."""
        return torch.zeros_like(scalings.a), scalings.start()

    def waits(self, t: int | Tensor) -> bool | Tensor:
        """True where iteration t goes without a test, which costs as much as half of it."""
        return (t > 4) & (t % 4 != 0) & (t < self.max_iter)

    def unfinished(
        self, scalings: Scalings, before: Tensor, u: Tensor, v: Tensor, w: Tensor
    ) -> Tensor:
        """True where a problem has not converged; not for nan, which no iteration mends."""
        return scalings.error(v, w) > self.tol

    def finish(self, scalings: Scalings, state: State) -> tuple[Tensor, Tensor]:
        """T, and the L1 error of its column sums, (n, 1, 1)."""
        return scalings.plan(state.u, state.v), scalings.error(state.v, state.w)

    def chunk_size(self, C: Tensor) -> int:
        """The number of problems, of costs like C (n, L, P), that make a chunk."""
        return max(1, chunk_bytes_of(C.device) // (C.shape[1:].numel() * max(4, C.element_size())))


def chunk_bytes_of(device: torch.device) -> int:
    """Bytes of a chunk's K. On the CPU it stays in the cache over all iterations."""
    return torch.get_num_threads() << 20 if device.type == "cpu" else 1 << 28


def looks_are_free(device: torch.device) -> bool:
    """True where the host may look at a number without waiting for a device."""
    return device.type == "cpu"
