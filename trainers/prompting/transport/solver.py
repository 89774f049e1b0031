"""Batched entropic optimal transport: many small problems at once, each judged on its own.

A problem has costs C (P, L) and weights a (P), b (L) of equal mass. Its entropic plan is

    T = argmin <T, C> - reg * H(T)   over T >= 0 with T 1 = a and T' 1 = b
      = diag(u) K diag(v),           K = exp(-C / reg)                   (Cuturi 2013, Lemma 2)

and Sinkhorn's iteration finds the scalings: u = a / (K v), v = b / (K' u) (Algorithm 1). ALIGN
solves it between the tokens of each pair of prompts, and again between the prompts (Eq. 4-8).

n problems stand in a row where the batch has become one dimension; the other letters are those of
`scalings`, which has the steps.

Cuturi. Sinkhorn Distances: Lightspeed Computation of Optimal Transport. NeurIPS 2013.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .inputs import check_settings, weights
from .loops import sinkhorn_loop
from .precision import full_precision
from .result import Problems, SinkhornResult, Solution, in_a_row
from .scalings import LogScalings, Scalings, column_means, exponent_bound, exponents, widest

FEW = 1 << 12  # costs: an iteration on half of them takes as long as on all


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
    own arithmetic (`arithmetics`). That is float32, or float64 if `cost` is; where `reg` is small
    against the costs, float64 in any case, because there rounding errors grow.

    Costs that lie in memory as (..., L, P), given as their transpose, are read faster.

    Args:
        cost: C, shape (..., P, L), floating.
        a, b: weights, (..., P) and (..., L), broadcast over the batch; None is uniform, mass 1.
            Where a weight is 0, plan and gradient are 0 whatever the cost is, even nan. Their
            values are checked on the CPU alone: for another device the host would have to wait.
        reg: the regularisation (lambda in ALIGN, 1 / lambda in Cuturi 2013).
        tol: converged is a problem whose column sums have an L1 error of at most this, its row
            sums being exact. (POT takes the L2 norm, which is never larger.)
        max_iter: updates of u at most; a problem that has not converged is left as it is.

    Raises:
        ValueError: types, shapes, weights or numbers do not make a transport problem; a cost is
            nan or -inf where there is mass.
    """
    return Sinkhorn(reg, tol, max_iter)(cost, a, b)


class Found(NamedTuple):
    """What iterating came to: u (n, 1, P), v (n, 1, L); error and iterations, (n, 1, 1)."""

    u: Tensor
    v: Tensor
    error: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class Sinkhorn:
    """The solver: `sinkhorn` with settings that are checked once.

    On an accelerator the host waits for what the caller does not know alone: `spread` (once a
    chunk) and `padded` (once or twice). There a known `spread` chooses the arithmetic, padding is
    computed like the rest, and all `max_iter` iterations are computed: to stop earlier, the host
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

    def __post_init__(self):
        check_settings(self.reg, self.tol, self.max_iter)

    def __call__(
        self,
        cost: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
        padded: bool | None = None,
    ) -> SinkhornResult:
        """Solves a batch of problems.

        Args:
            cost, a, b: as in `sinkhorn`.
            padded: whether some weights are 0; None looks.
        """
        if torch.compiler.is_compiling():
            return sinkhorn_loop(cost, a, b, self.reg, self.tol, self.max_iter, self.spread)
        a_full, b_full = weights(cost, a, b)
        if padded is None:
            padded = not all(w is None or bool(w.all()) for w in (a, b))
        problems = in_a_row(cost, a_full, b_full, padded)
        wants_gradient = cost.requires_grad and torch.is_grad_enabled()
        few = len(problems.C) <= chunk_size(problems.C)  # whose plans take less time now
        return self._solve(problems, wants_gradient or few).result(cost)

    def _solve(self, problems: Problems, plans: bool) -> Solution:
        """Solves problems; with `plans` their plans are made at once, else when asked for."""
        C, a, b, padded = problems
        if plans:
            T = torch.zeros_like(C, dtype=a.dtype)
            solution = Solution(problems, lambda: T)
        else:
            log_v = torch.full_like(b, -math.inf, dtype=widest(b.device))
            solution = Solution(problems, partial(self.plans, problems, log_v))
        with full_precision(C.device.type):
            for at, C_piece, steps in self._pieces(problems):
                width = C_piece.shape[1]
                u, v, error, iterations = self.iterate(steps, steps.start(padded))
                if not plans:
                    log_v[at, :width] = steps.log_of(v)
                T_piece = steps.into_plan(u, v)
                if plans:
                    T[at, :, :width] = T_piece.transpose(1, 2).to(T.dtype)
                solution.put(at, T_piece.mul_(C_piece).sum((1, 2)), iterations, error)
        return solution

    def plans(self, problems: Problems, log_v: Tensor) -> Tensor:
        """T (n, P, L) of problems whose log v (n, L) is known: u = a / (K v) is all it takes."""
        T = torch.zeros_like(problems.C, dtype=problems.a.dtype)
        with full_precision(T.device.type):
            for at, C, steps in self._pieces(problems):
                width = C.shape[1]
                v = steps.v_of(log_v[at][:, :width])
                T[at, :, :width] = steps.into_plan(steps.u(v), v).transpose(1, 2).to(T.dtype)
        return T

    def _pieces(self, problems: Problems) -> Iterator[tuple[Tensor | slice, Tensor, Scalings]]:
        """Cuts the problems into pieces of one arithmetic each, small enough for one go.

        Yields:
            the index of a piece's problems; their costs (m, L', P), where L' may be less than L;
            and the steps of their iteration.
        """
        C, a, b, padded = problems
        n, P, L = C.shape
        size = min(n, chunk_size(C))
        # fresh memory for every chunk takes longer than what is done in it
        memory = a.new_empty(2, size * P * L) if size < n else None
        choices = arithmetics(a)
        known = self._known(choices, a.device)
        for at, width in _chunks(b, size, padded):
            a_, b_ = a[at], b[at][:, :width]
            shape = len(a_), width, P
            for_c, for_x = (None, None) if memory is None else (part(m, shape) for m in memory)
            c, padding = columns_first(C[at][..., :width], a_, b_, padded, for_c)
            mean = column_means(c, a_)
            if padding is not None:
                torch.where(padding, mean[..., None], c, out=c)
            if known is not None and known != choices[0]:
                Steps, dtype = known
                costs, mean, *weights_ = (t.to(dtype) for t in (c, mean, a_, b_))
                yield at, costs, Steps.of(exponents(costs, mean, self.reg), *weights_)
                continue
            x = exponents(c, mean, self.reg, for_x)
            first, first_dtype = choices[0]
            if known is not None or in_range(x, first_dtype):
                yield at, c, first.of(x, a_, b_)
                continue
            choice = self._choose(torch.sub(mean[..., None], c, out=for_x), choices)
            index = torch.arange(n, device=C.device)[at]
            for i, (Steps, dtype) in enumerate(choices):
                some = choice == i
                if not some.any():
                    continue
                costs, means, *weights_ = (t[some].to(dtype) for t in (c, mean, a_, b_))
                yield index[some], costs, Steps.of(exponents(costs, means, self.reg), *weights_)

    def _known(self, choices, device: torch.device) -> tuple[type[Scalings], torch.dtype] | None:
        """The first arithmetic that is safe for any costs of this spread.

        None if the costs have to tell: without a spread, and on the CPU, where looking is cheap,
        if the first arithmetic is not safe.
        """
        if self.spread is None:
            return None
        safe = [c for c in choices[:-1] if self.spread <= self.reg * exponent_bound(c[1])]
        if device.type == "cpu":
            return choices[0] if choices[0] in safe else None
        return safe[0] if safe else choices[-1]

    def _choose(self, shifted: Tensor, choices) -> Tensor:
        """For each problem the first arithmetic that is safe, from mean - C (m, L, P).

        These are in range where exponents may not be.
        """
        least, greatest = shifted.amin((1, 2)), shifted.amax((1, 2))
        if self.spread is None and bool((least.isnan() | (greatest == math.inf)).any()):
            raise ValueError("cost has entries that are nan or -inf where there is mass")
        far = torch.maximum(-least, greatest) / self.reg
        bounds = [exponent_bound(dtype) for _, dtype in choices[:-1]]
        return (far[:, None] > far.new_tensor(bounds)).sum(1)

    def iterate(self, steps: Scalings, v: Tensor) -> Found:
        """Updates u and v of each problem until it has converged.

        On the CPU the last one ends it, and where at most half of the problems have not converged,
        they go on alone. Elsewhere the host would have to wait to know, so it goes on to the end.
        """
        looks = looks_are_free(v.device)
        n = len(v)  # problems that are iterated on
        left: int | None = n  # of them have not converged, as far as the host knows
        active = torch.ones(n, 1, 1, dtype=torch.bool, device=v.device)
        iterations = torch.zeros(n, 1, 1, dtype=torch.long, device=v.device)
        whole: Found | None = None  # of all problems, once only those at `index` go on
        index: Tensor | None = None
        for t in range(1, self.max_iter + 1):
            u, w = one_iteration(steps, v)
            if self._tests(t):
                iterations.masked_fill_(active, t)
                error = steps.error(v, w)
                active = self.active(error)
                left = int(active.count_nonzero()) if looks else None
                if t == self.max_iter or left == 0:
                    break
                if left and 2 * left <= n and steps.kernel.numel() > FEW:
                    whole = _put(whole, index, Found(u, v, error, iterations))
                    some = active[:, 0, 0].nonzero()[:, 0]
                    index = some if index is None else index[some]
                    steps, n = steps[some], left
                    v, w, iterations, active = (x[some] for x in (v, w, iterations, active))
            new = steps.v(w)
            v = new if left == n else torch.where(active, new, v)  # the converged stay
        return _put(whole, index, Found(u, v, error, iterations))

    def active(self, error: Tensor) -> Tensor:
        """Which problems have not converged: not those of nan, which no iteration mends."""
        return error > self.tol

    def _tests(self, t: int) -> bool:
        """Whether iteration t tests convergence, which costs as much as half of it."""
        return t <= 4 or t % 4 == 0 or t == self.max_iter


def one_iteration(steps: Scalings, v: Tensor) -> tuple[Tensor, Tensor]:
    """u = a / (K v), and w = K' u, of which the next v is b / w."""
    u = steps.u(v)
    return u, steps.w(u)


def _put(whole: Found | None, index: Tensor | None, rest: Found) -> Found:
    """Writes what the problems at `index` came to into what all of them did."""
    if whole is None:
        return rest
    for all_, some in zip(whole, rest, strict=True):
        all_[index] = some
    return whole


def arithmetics(a: Tensor) -> list[tuple[type[Scalings], torch.dtype]]:
    """The arithmetics for problems: the first is taken that is safe for a problem's costs."""
    wide = widest(a.device)
    in_wide = [(Scalings, wide), (LogScalings, wide)]
    return in_wide if a.dtype == torch.float64 else [(Scalings, torch.float32), *in_wide]


def in_range(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether exponents are safe in a type; not if one is nan."""
    least, greatest = torch.stack(x.aminmax()).tolist()
    return max(-least, greatest) <= exponent_bound(dtype)


def _chunks(b: Tensor, size: int, padded: bool):
    """Yields the index of `size` problems at a time, and how many columns they need.

    Problems are taken in order of length where that differs, so that little padding is computed.
    """
    n, L = b.shape
    if n == 0:
        return
    shortest = longest = L
    if padded and b.device.type == "cpu":  # elsewhere a look costs more than the padding
        lengths = (torch.arange(1, L + 1, device=b.device) * (b > 0)).amax(1).clamp_min(1)
        shortest, longest = (int(x) for x in lengths.aminmax())
    if n <= size or shortest == longest:
        for start in range(0, n, size):
            yield slice(start, start + size), longest
        return
    for at in lengths.argsort(stable=True).split(size):
        yield at, int(lengths[at[-1]])


def chunk_size(C: Tensor) -> int:
    """How many problems, of costs like C (n, P, L), make a chunk."""
    return max(1, chunk_bytes_of(C.device) // (C.shape[1:].numel() * max(4, C.element_size())))


def chunk_bytes_of(device: torch.device) -> int:
    """Bytes of a chunk's K. On the CPU it stays in the cache over all iterations."""
    return torch.get_num_threads() << 20 if device.type == "cpu" else 1 << 28


def looks_are_free(device: torch.device) -> bool:
    """Whether the host may look at a number without waiting for a device."""
    return device.type == "cpu"


def part(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The front of a flat tensor, in a shape."""
    return memory[: math.prod(shape)].view(shape)


def columns_first(C, a, b, padded: bool, out=None) -> tuple[Tensor, Tensor | None]:
    """Costs as (n, L, P) in the computing type, and where there is no mass (or None); 0 there."""
    c = C.transpose(1, 2)
    if not padded and c.is_contiguous() and c.dtype == a.dtype:
        return c, None
    c = (a.new_empty(c.shape) if out is None else out).copy_(c)
    if not padded:
        return c, None
    padding = (b == 0)[..., None] | (a == 0)[:, None]
    return c.masked_fill_(padding, 0), padding
