"""Batched entropic optimal transport: many small problems at once, independent of each other.

A problem has costs C and weights a of its P rows and b of its L columns, of equal mass. Its
entropic plan is

    T = argmin <T, C> - reg * H(T)   over T >= 0 with T 1 = a and T' 1 = b
      = diag(u) K diag(v),           K = exp(-C / reg)                   (Cuturi 2013, Lemma 2)

and Sinkhorn's iteration (Algorithm 1) finds the scalings:

    u = a / (K v)
    w = K' u          v w are the plan's column sums; its row sums are exact
    v = b / w

ALIGN solves such problems between the tokens of each pair of prompts, and again between the prompts
(Eq. 4 and 5; docs/methods.md, section 3).

Shapes in code: n is the flattened batch, and columns come before rows, because products along rows
are several times as fast. C, K and T are (n, L, P); a and u (n, 1, P); b, v and w (n, 1, L). x are
the exponents of K.

Cuturi. Sinkhorn Distances: Lightspeed Computation of Optimal Transport. NeurIPS 2013.
arXiv:1306.0895.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ..full_precision import full_precision
from .fused import fused
from .inputs import full_weights
from .scalings import LogScalings, Scalings, SmallScalings, exponent_bound, widest

SMALL = 64  # costs of a problem; on a CPU, matrix products of larger ones win


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


def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-4,
    max_iter: int = 100,
) -> SinkhornResult:
    """Return entropic transport plans and distances of a batch (Cuturi 2013, Algorithm 1).

    The result of a problem never depends on the others: each has its own number of iterations and
    its own arithmetic. This is float32, or float64 if `cost` is; if `reg` is small compared with
    the costs it is always float64, because rounding errors then grow.

    Costs are read faster if they are the transpose of a tensor that is contiguous as (..., L, P).

    Args:
        cost: C, shape (..., P, L), floating.
        a: weights of the rows, (..., P), broadcast over the batch; None is uniform, mass 1. Where
            a weight is 0, plan and gradient are 0 for any cost, even nan. Values are validated on
            the CPU only: on another device the host would have to wait.
        b: weights of the columns, (..., L).
        reg: the regularisation (lambda in ALIGN, 1 / lambda in Cuturi 2013).
        tol: a problem has converged if the L1 error of its column sums is at most this; its row
            sums are exact. (POT takes the L2 norm, which is never larger.)
        max_iter: the most updates of u. A problem that has not converged by then is returned as it
            is; see `marginal_error`.

    Raises:
        ValueError: weights or settings do not make a transport problem; a cost is nan or -inf
            where there is mass.

    Examples:
        >>> sinkhorn(1 - torch.eye(2)).plan.round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    return Sinkhorn(reg, tol, max_iter)(cost, a, b)


class State(NamedTuple):
    """The state of n problems in the iteration, with u, v and w as above, or their logarithms."""

    t: int | Tensor  # number of the next iteration, from 1 on; a tensor in a traced program
    u: Tensor
    v: Tensor
    w: Tensor
    active: Tensor  # (n, 1, 1), True for problems that have not converged
    iterations: Tensor  # (n, 1, 1), number of those of each problem


class PlanDistance(torch.autograd.Function):
    """<T, C> with T constant: the value that the solver found, with T as its gradient.

    Computed by autograd, it would include costs without mass, which may be nan.
    """

    @staticmethod
    def forward(ctx: Any, cost: Tensor, plan: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(plan)
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the gradient of the costs: T times that of the value."""
        (plan,) = ctx.saved_tensors
        return grad[..., None, None] * plan, None, None


def join(parts: Sequence[SinkhornResult]) -> SinkhornResult:
    """Concatenate the results of problems that were solved in parts."""
    return (
        parts[0] if len(parts) == 1 else SinkhornResult(*map(torch.cat, zip(*parts, strict=True)))
    )


@dataclass(frozen=True)
class Sinkhorn:
    """The solver of `sinkhorn`, as an object whose settings are checked once.

    `iterate` is the loop; `scalings`, `start`, `waits`, `unfinished` and `finish` are its parts.
    `torch.export` traces the same loop; all problems of a program then iterate together.

    Converged problems keep their v, so extra iterations do not change a result. On a GPU, if
    `spread` is given, a fused kernel solves each problem (`fused`). On other accelerators all
    `max_iter` iterations are computed, because the host would have to wait to stop earlier. If
    `spread` is given, it chooses the arithmetic; otherwise the host reads the costs once per chunk.

    Attributes:
        reg, tol, max_iter: as in `sinkhorn`.
        spread: a bound on the differences between the costs of a problem, or None if unknown. Costs
            are then not read if the bound over `reg` is safe in float32, nor on an accelerator,
            which takes the first arithmetic that is safe for the bound. If costs are not read, a
            nan among them is not refused and gives nan.
    """

    reg: float = 0.1
    tol: float = 1e-4
    max_iter: int = 100
    spread: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.reg < math.inf and self.max_iter >= 1):
            raise ValueError(
                f"reg is {self.reg} and max_iter {self.max_iter}: they must be positive and finite"
            )

    def __call__(
        self, cost: Tensor, a: Tensor | None = None, b: Tensor | None = None
    ) -> SinkhornResult:
        """Solve a batch of problems, as `sinkhorn`."""
        full_a, full_b = full_weights(cost, a, b)
        *batch, P, L = cost.shape
        n, uniform = math.prod(batch), a is None and b is None
        C = cost.detach().reshape(n, P, L).mT
        full_a, full_b = full_a.reshape(n, 1, P), full_b.reshape(n, 1, L)
        chunks = [(C, full_a, full_b)]
        if not torch.compiler.is_compiling():
            size = self.chunk_size(C)
            chunks = [*zip(C.split(size), full_a.split(size), full_b.split(size), strict=True)]
        with full_precision(cost.device.type):
            solve = self.solve if looks_are_free(cost.device) else partial(fused, self)
            result = join([SinkhornResult(*solve(*chunk, uniform)) for chunk in chunks])
        plan = result.plan.mT.reshape(cost.shape)
        distance, iterations, error = (x.reshape(batch) for x in result[1:])
        if cost.requires_grad and torch.is_grad_enabled():
            distance = PlanDistance.apply(cost, plan, distance)  # type: ignore[no-untyped-call]
        return SinkhornResult(plan, distance, iterations, error)

    def solve(self, C: Tensor, a: Tensor, b: Tensor, uniform: bool) -> SinkhornResult:
        """Solve the problems of a chunk; plans are (n, L, P). With `uniform` no weight is 0."""
        C, padding = C.to(a.dtype).contiguous(), None
        looks = looks_are_free(C.device) and not torch.compiler.is_compiling()
        if not (uniform or (looks and bool((a > 0).all() and (b > 0).all()))):
            padding = (a == 0) | (b == 0).mT
            C = C.masked_fill(padding, 0)
        solved: list[tuple[Any, SinkhornResult]] = []
        for index, costs, scalings in self.scalings(C, a, b, padding):
            state = self.iterate(scalings)
            n = costs.shape[0]  # not `len`, which an exported program would keep as a constant
            plan, error = self.finish(scalings, state)
            distance = (plan[:n] * costs).sum((1, 2))
            plan, distance, error = (x.to(a.dtype) for x in (plan[:n], distance, error[:n]))
            iterations = state.iterations.flatten()[:n]
            solved.append((index, SinkhornResult(plan, distance, iterations, error)))
        if len(solved) == 1:
            return solved[0][1]
        indices, results = zip(*solved, strict=True)
        back = torch.cat(indices).argsort()
        return SinkhornResult(*(x[back] for x in join(results)))

    def iterate(self, scalings: Scalings) -> State:
        """Update u and v of each problem until it has converged; from then on it keeps its v."""
        traced = torch.compiler.is_compiling()
        looks = traced or looks_are_free(scalings.b.device)

        def goes_on(t: Any, u: Tensor, v: Tensor, w: Tensor, active: Tensor, n: Tensor) -> Any:
            if traced or (looks and not self.waits(t - 1)):
                return active.any()
            return t <= self.max_iter

        def update(
            t: Any, before: Tensor, v: Tensor, w: Tensor, active: Tensor, iterations: Tensor
        ) -> tuple[Any, Tensor, Tensor, Tensor, Tensor, Tensor]:
            u = scalings.u(v)
            w = scalings.w(u)
            if traced or not self.waits(t):
                iterations = iterations.masked_fill(active, t)
                unfinished = self.unfinished(scalings, before, u, v, w)
                if traced:
                    unfinished = unfinished | self.waits(t)
                active = active & unfinished & (t < self.max_iter)
            v = torch.where(active, scalings.v(w), v)
            return t + 1, u, v, w, active, iterations

        u, v = self.start(scalings)
        active = torch.ones_like(v.narrow(scalings.columns, 0, 1), dtype=torch.bool)
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
        """Yield the steps for costs C, which are 0 at `padding`: entries without mass.

        v absorbs any shift of a column. With x = (mean C - C) / reg, where the mean is over each
        column, numbers are near 1, and v = 1 is a good start: the token level needs only two or
        three iterations.

        Yields:
            for each arithmetic in use, the index of its problems, their costs and their steps.
        """
        mean = (torch.bmm(a, C.mT) / a.sum(-1, keepdim=True)).nan_to_num(0, 0, 0).mT
        if padding is not None:
            C = torch.where(padding, mean, C)
        shifted = mean - C
        for Steps, dtype, index in self.arithmetics(shifted):
            costs, x, *weights_ = (z[index].to(dtype) for z in (C, shifted, a, b))
            if dtype != C.dtype:  # subtract in the wider type, without the rounding of the narrower
                x = mean[index].to(dtype) - costs
            yield index, costs, Steps.of(x.div_(self.reg), *weights_)

    def arithmetics(self, shifted: Tensor) -> list[tuple[type[Scalings], torch.dtype, Any]]:
        """Return the arithmetics in use, (steps, dtype, index of the problems).

        Each problem gets the first arithmetic that is safe for its mean C - C.

        Raises:
            ValueError: see `sinkhorn`.
        """
        wide, plain = widest(shifted.device), plain_scalings(shifted)
        choices: list[tuple[type[Scalings], torch.dtype]]
        choices = [(plain, shifted.dtype), (plain, wide), (LogScalings, wide)]
        bounds = [self.reg * exponent_bound(shifted.dtype), self.reg * exponent_bound(wide)]
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
        """Return the first u, which is not read, and the first v."""
        return torch.zeros_like(scalings.a), scalings.start()

    def waits(self, t: int | Tensor) -> bool | Tensor:
        """Return True if iteration t has no convergence test, which costs half an iteration."""
        return (t > 4) & (t % 4 != 0) & (t < self.max_iter)

    def unfinished(
        self, scalings: Scalings, before: Tensor, u: Tensor, v: Tensor, w: Tensor
    ) -> Tensor:
        """Return True for problems that have not converged; False for nan, which would stay nan."""
        return scalings.error(v, w) > self.tol

    def finish(self, scalings: Scalings, state: State) -> tuple[Tensor, Tensor]:
        """Return T, and the L1 error of its column sums, (n,)."""
        return scalings.plan(state.u, state.v), scalings.error(state.v, state.w).flatten()

    def chunk_size(self, C: Tensor) -> int:
        """Return the number of problems in a chunk, for costs C (n, L, P)."""
        most = 1 << 28  # bytes of a chunk's K, which on the CPU fits into the cache
        if C.device.type == "cpu":
            most = torch.get_num_threads() << (18 if plain_scalings(C) is SmallScalings else 20)
        return max(1, most // (C.shape[1:].numel() * max(4, C.element_size())))


def plain_scalings(C: Tensor) -> type[Scalings]:
    """Return the steps on u and v themselves that are faster for costs C (n, L, P)."""
    small = C.device.type == "cpu" and not torch.compiler.is_compiling()
    return SmallScalings if small and C.shape[1:].numel() <= SMALL else Scalings


def looks_are_free(device: torch.device) -> bool:
    """Return True if the host can read values without waiting for the device."""
    return device.type == "cpu"
