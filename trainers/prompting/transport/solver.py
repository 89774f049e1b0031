"""Batched entropic optimal transport: many small problems at once, each judged on its own.

A problem has costs C (P, L) and weights a (P), b (L) of equal mass. Its entropic plan is

    T = argmin <T, C> - reg * H(T)   over T >= 0 with T 1 = a and T' 1 = b
      = diag(u) K diag(v),           K = exp(-C / reg)                   (Cuturi 2013, Lemma 2)

and Sinkhorn's iteration finds the scalings: u = a / (K v), v = b / (K' u) (Algorithm 1). ALIGN
solves it between the tokens of each pair of prompts, and again between the prompts (Eq. 4-8).

Cuturi. Sinkhorn Distances: Lightspeed Computation of Optimal Transport. NeurIPS 2013.
"""

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

FEW = 1 << 12  # costs: an iteration on half of them takes as long as on all


@dataclass(eq=False)
class SinkhornResult:
    """Solved problems: holds the plans of a few; for many, derives them when asked.

    Attributes:
        cost, a, b: the problems: C (..., P, L), and the weights in full, (..., P) and (..., L).
        reg: the regularisation.
        distance: <T, C>, shape (...). T is a constant in the backward pass, so the gradient with
            respect to `cost` is T, and there is no other.
        iterations: how often each problem updated u, shape (...). After the fourth, convergence
            is tested at every fourth.
        marginal_error: L1 error of the marginal that is not exact, shape (...).
        log_v: logarithms of v for costs less their `_column_means`, one row per problem; None
            where the plans are held.
    """

    cost: Tensor
    a: Tensor
    b: Tensor
    reg: float
    distance: Tensor
    iterations: Tensor
    marginal_error: Tensor
    log_v: Tensor | None = None
    _plan: Tensor | None = None

    @property
    def plan(self) -> Tensor:
        """T, shape (..., P, L), without gradient; exactly 0 where a weight is 0."""
        if self._plan is None:
            problems = _flat(self.cost, self.a, self.b)
            *_, plan = _solve(*problems, self.reg, tol=0, max_iter=1, log_v=self.log_v, plans=True)
            self._plan = plan.view(self.cost.shape)
        return self._plan

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """T 1 and T' 1, shapes (..., P) and (..., L)."""
        return self.plan.sum(-1), self.plan.sum(-2)


def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-4,
    max_iter: int = 100,
    validate: bool | None = None,
) -> SinkhornResult:
    """Entropic transport plans and distances of a batch of problems (Cuturi 2013, Algorithm 1).

    A problem's result never depends on the others: each has its own count of iterations and its
    own arithmetic (`_tiers`). That is float32, or float64 if `cost` is; where `reg` is small
    against the costs, float64 in any case, because there rounding errors grow.

    Costs that lie in memory as (..., L, P), given as their transpose, are read faster.

    Args:
        cost: C, shape (..., P, L), floating.
        a, b: weights, (..., P) and (..., L), broadcast over the batch; None is uniform, mass 1.
            Where a weight is 0, plan and gradient are 0 whatever the cost is, even nan.
        reg: the regularisation (lambda in ALIGN, 1 / lambda in Cuturi 2013).
        tol: converged is a problem whose column sums have an L1 error of at most this, its row
            sums being exact. (POT takes the L2 norm, which is never larger.)
        max_iter: updates of u at most; a problem that has not converged is left as it is.
        validate: check the values of a and b. None: on the CPU alone, as the host would have to
            wait for any other device.

    Raises:
        ValueError: types, shapes, weights or numbers do not make a transport problem.
    """
    a, b = _checked(cost, a, b, reg, tol, max_iter, validate)
    plans = cost.requires_grad and torch.is_grad_enabled()  # without gradient, only when asked
    solved = _solve(*_flat(cost, a, b), reg, tol, max_iter, plans=plans)
    return _result(cost, a, b, reg, *solved)


def sinkhorn_released(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    reg: float = 0.1,
    tol: float = 1e-2,
    max_iter: int = 100,
    group_dims: int | None = None,
) -> SinkhornResult:
    """What the published code of ALIGN and PLOT computes, to compare with; else as `sinkhorn`.

    u and v start at 1, K is taken as it is, and a whole group of problems stops once the mean of
    |u - previous u| over it is below `tol`. A group with a nan in its plans has K for plans.

    Args:
        group_dims: how many of the last batch dimensions make a group; None is all of them.
    """
    a, b = _checked(cost, a, b, reg, tol, max_iter, None)
    batch = cost.shape[:-2]
    group_dims = len(batch) if group_dims is None else group_dims
    if not 0 <= group_dims <= len(batch):
        raise ValueError(f"group_dims is {group_dims}, but cost has {len(batch)} batch dimensions")
    size = batch[len(batch) - group_dims :].numel()
    problems = _flat(cost, a, b)
    plan = torch.empty_like(problems[0], dtype=a.dtype)
    value, error = a.new_empty(len(plan)), a.new_empty(len(plan))
    iterations = torch.ones(len(plan), dtype=torch.long, device=a.device)
    step = max(1, size) * max(1, _chunk_size(plan) // max(1, size))
    with full_precision(cost.device.type):
        for start in range(0, len(plan), step):
            at = slice(start, start + step)
            C, a_, b_ = (x[at] for x in problems)
            dense = bool((a_ > 0).all() and (b_ > 0).all())
            c, padding = _columns_first(C, a_, b_, dense)
            steps = Scalings(torch.exp(c / -reg), a_[:, None], b_[:, None])
            T, iterations[at] = _iterate_groups(steps, size, tol, max_iter)
            if padding is not None:
                T.masked_fill_(padding, 0)
            plan[at] = T.transpose(1, 2)
            error[at] = (T.sum(1) - a_).abs().sum(-1)
            value[at] = T.mul_(c).sum((1, 2))
    return _result(cost, a, b, reg, value, iterations, error, None, plan)


class _Distance(torch.autograd.Function):
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


def _result(cost, a, b, reg, value, iterations, error, log_v, plan):
    """Gives what was solved the shape of the batch, and the distance its gradient."""
    batch = cost.shape[:-2]
    value, iterations, error = value.view(batch), iterations.view(batch), error.view(batch)
    plan = None if plan is None else plan.view(cost.shape)
    if cost.requires_grad and torch.is_grad_enabled():
        value = _Distance.apply(cost, plan, value)
    return SinkhornResult(cost, a, b, reg, value, iterations, error, log_v, plan)


def _solve(C, a, b, reg, tol, max_iter, log_v=None, plans=False):
    """Solves problems C (n, P, L), a (n, P), b (n, L), from `log_v` (n, L) if given.

    Returns:
        <T, C>, iterations and L1 error of the columns, each (n); and T like C, or else log_v.
    """
    n = len(C)
    value, error = a.new_empty(n), a.new_empty(n)
    iterations = torch.empty(n, dtype=torch.long, device=C.device)
    plans = plans or n <= _chunk_size(C)  # few take less time now than on their own later
    plan = torch.zeros_like(C, dtype=a.dtype) if plans else None
    dense = bool(a.all() and b.all())
    start, log_v = log_v, None
    if not plans:
        log_v = torch.full_like(b, -math.inf, dtype=_tiers(a)[-1][1])
    with full_precision(C.device.type):
        for at, c, steps in _pieces(C, a, b, reg, dense):
            width = c.shape[1]
            v = steps.start(dense) if start is None else steps.exp(start[at][:, :width])
            u, v, violation, count = iterate(steps, v, tol, max_iter)
            if not plans:
                log_v[at, :width] = steps.log(v)
            T = steps.plan(u, v)
            if plans:
                plan[at, :, :width] = T.transpose(1, 2).to(a.dtype)
            found = (
                T.mul_(c).sum((1, 2)).to(a.dtype),
                count.view(-1),
                violation.view(-1).to(a.dtype),
            )
            if len(c) == n:
                value, iterations, error = found
            else:
                value[at], iterations[at], error[at] = found
    return value, iterations, error, log_v, plan


def _pieces(C, a, b, reg, dense):
    """Cuts the batch into pieces of one arithmetic each, small enough for one go.

    Yields:
        the index of a piece's problems; their costs (m, L, P), where L may be less than in C;
        and the steps of their iteration.
    """
    n, P, L = C.shape
    size = min(n, _chunk_size(C))
    buffers = None, None
    if size < n:  # fresh memory for every chunk takes longer than it
        buffers = a.new_empty(2, size * P * L)
    tiers = _tiers(a)
    for chunk, width in _chunks(b, size, dense):
        a_, b_ = a[chunk], b[chunk][:, :width]
        c, padding = _columns_first(C[chunk][..., :width], a_, b_, dense, buffers[0])
        mean = _column_means(c, a_)
        if padding is not None:
            torch.where(padding, mean[..., None], c, out=c)
        out = buffers[1][: c.numel()].view(c.shape) if size < n else None
        exponents = _exponents(c, mean, reg, out)
        least, greatest = (float(x) for x in exponents.aminmax())
        if max(-least, greatest) <= exponent_bound(tiers[0][1]):  # not if both are nan
            yield chunk, c, tiers[0][0].of(exponents, a_, b_)
            continue
        shifted = torch.sub(mean[..., None], c, out=out)  # in range where those may not be
        far = torch.maximum(-shifted.amin((1, 2)), shifted.amax((1, 2))) / reg
        tier = sum((far > exponent_bound(dtype)).int() for _, dtype in tiers[:-1])
        index = torch.arange(n, device=C.device)[chunk]
        for i, (Steps, dtype) in enumerate(tiers):
            some = tier == i
            if not some.any():
                continue
            costs, means, *weights = (x[some].to(dtype) for x in (c, mean, a_, b_))
            yield index[some], costs, Steps.of(_exponents(costs, means, reg), *weights)


def _chunks(b, size, dense):
    """Yields the index of `size` problems at a time, and how many columns they need.

    Problems are taken in order of length where that differs, so that little padding is computed.
    """
    n, L = b.shape
    if n == 0:
        return
    shortest = longest = L
    if not dense:
        lengths = (torch.arange(1, L + 1, device=b.device) * (b > 0)).amax(1).clamp_min(1)
        shortest, longest = (int(x) for x in lengths.aminmax())
    if n <= size or shortest == longest:
        for start in range(0, n, size):
            yield slice(start, start + size), longest
        return
    for at in lengths.argsort(stable=True).split(size):
        yield at, int(lengths[at[-1]])


def _chunk_size(C):
    """Problems in a chunk."""
    return max(1, chunk_bytes_of(C.device) // (C.shape[1:].numel() * max(4, C.element_size())))


def chunk_bytes_of(device):
    """Bytes of a chunk's K. On the CPU it stays in the cache over all iterations."""
    return torch.get_num_threads() << 20 if device.type == "cpu" else 1 << 28


def _columns_first(C, a, b, dense, buffer=None):
    """Costs as (n, L, P) in the computing type, and where there is no mass (or None); 0 there."""
    n, P, L = C.shape
    c = C.transpose(1, 2)
    if dense and c.is_contiguous() and c.dtype == a.dtype:
        return c, None
    c = (a.new_empty(n * L * P) if buffer is None else buffer[: n * L * P]).view(n, L, P).copy_(c)
    if dense:
        return c, None
    padding = (b == 0)[..., None] | (a == 0)[:, None]
    return c.masked_fill_(padding, 0), padding


def _column_means(c, a):
    """Means of the columns under a, (n, L).

    v absorbs any shift of a column. After this one numbers are near 1, and v = 1 is so good a
    start that the token level takes two or three iterations.
    """
    mean = torch.bmm(a[:, None], c.transpose(1, 2))[:, 0] / a.sum(-1, keepdim=True)
    return mean.nan_to_num_(0, 0, 0)


def _exponents(c, mean, reg, out=None):
    """(mean - c) / reg in one pass."""
    return torch.add(mean[..., None] / reg, c, alpha=-1 / reg, out=out)


def _tiers(a):
    """The arithmetics for a problem: the first is taken that is safe for its costs."""
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    tiers = ((Scalings, torch.float32), (Scalings, wide), (_LogScalings, wide))
    return tiers[a.dtype == torch.float64 :]


def exponent_bound(dtype):
    """Bound on |mean - C| / reg below which K, u, v and their products are in range."""
    return math.log(torch.finfo(dtype).max) / 4


LEAST_REG = 2 / exponent_bound(torch.float32)  # for costs of cosines, which differ by 2 at most


def iterate(steps, v, tol, max_iter):
    """Updates u and v of each problem until it has converged.

    Returns:
        u (n, 1, P), v (n, 1, L), L1 error of the columns and number of updates of u, (n, 1, 1).
    """
    every = _look_every(v)
    n = left = len(v)
    count = torch.ones(n, 1, 1, dtype=torch.long, device=v.device)
    active, index, kept = None, None, None
    for t in range(1, max_iter + 1):
        u = steps.u(v)
        s = steps.columns(u)
        if t <= 4 or t % 4 == 0 or t == max_iter:  # a test costs as much as half an iteration
            if t > 1:
                count.masked_fill_(active, t)
            error = steps.error(v, s)
            active = error > tol  # false for nan, too: no iteration mends it
            left = int(active.count_nonzero()) if t % every == 0 else None
            if t == max_iter or left == 0:
                break
            if left and 2 * left <= n and steps.K.numel() > FEW:  # go on with the rest alone
                kept = _put(kept, index, (u, v, error, count))
                some = active[:, 0, 0].nonzero()[:, 0]
                index = some if index is None else index[some]
                steps, v, s, count, active = (x[some] for x in (steps, v, s, count, active))
                n = left
        new = steps.v(s)
        v = new if left == n else torch.where(active, new, v)  # the converged stay as they are
    return _put(kept, index, (u, v, error, count))


def _put(kept, index, rest):
    """Writes what the rest of the problems came to into what all of them did."""
    if kept is None:
        return rest
    for whole, part in zip(kept, rest, strict=True):
        whole[index] = part
    return kept


def _iterate_groups(steps, size, tol, max_iter):
    """Updates u and v of groups of `size` problems by the released rule; returns T and counts."""
    n = len(steps.K)
    groups = n // size
    u, v = (steps.a > 0).to(steps.K.dtype), (steps.b > 0).to(steps.K.dtype)
    rows = u.view(groups, -1).sum(1)
    active = torch.ones(n, 1, 1, dtype=torch.bool, device=u.device)
    count = torch.zeros(n, 1, 1, dtype=torch.long, device=u.device)
    for t in range(1, max_iter + 1):
        previous, u = u, torch.where(active, steps.u(v), u)
        v = torch.where(active, steps.v(steps.columns(u)), v)
        count += active
        change = (u - previous).abs().view(groups, -1).sum(1) / rows
        active = ~(change < tol).repeat_interleave(size).view(n, 1, 1)
        if t % _look_every(u) == 0 and not active.any():
            break
    T = steps.K * u * v.mT
    broken = T.view(groups, -1).isnan().any(1).repeat_interleave(size).view(n, 1, 1)
    return torch.where(broken, steps.K, T), count.view(-1)


def _look_every(x):
    """Iterations between two looks of the host, which are free on the CPU alone."""
    return 1 if x.device.type == "cpu" else 8


@dataclass
class Scalings:
    """The steps on u (n, 1, P) and v (n, 1, L), with a and b alike.

    K is (n, L, P): so both products run along P, which is several times as fast.
    """

    K: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, exponents, a, b):
        """The steps for column means less costs, over reg, (n, L, P); K takes their memory."""
        return cls(exponents.exp_(), a[:, None], b[:, None])

    def __getitem__(self, problems):
        return type(self)(self.K[problems], self.a[problems], self.b[problems])

    def start(self, dense):
        """v = 1, and 0 on padding, which therefore is never seen."""
        if dense:
            return torch.ones_like(self.b)
        return ((self.b > 0) | (self.b.sum(-1, keepdim=True) == 0)).to(self.K.dtype)

    def exp(self, log_v):
        return log_v[:, None].exp().to(self.K.dtype)

    def log(self, v):
        return v[:, 0].to(_tiers(v)[-1][1]).log()

    def u(self, v):
        return self.a / torch.bmm(v, self.K)

    def columns(self, u):
        """s = K' u; the plan's column sums are v s."""
        return torch.bmm(u, self.K.mT)

    def v(self, s):
        return self.b / s

    def error(self, v, s):
        return (v * s).sub_(self.b).abs_().sum(-1, keepdim=True)

    def plan(self, u, v):
        """T as (n, L, P), in the memory of K."""
        return self.K.mul_(u).mul_(v.mT)


class _LogScalings(Scalings):
    """The same with the logarithms of K, a, u, v and s in their places: nothing overflows."""

    @classmethod
    def of(cls, exponents, a, b):
        return cls(exponents, a[:, None].log(), b[:, None])

    def start(self, dense):
        return super().start(dense).log_()

    def exp(self, log_v):
        return log_v[:, None]

    def log(self, v):
        return v[:, 0]

    def u(self, v):
        return self.a - torch.logsumexp(self.K + v.mT, 1, keepdim=True)

    def columns(self, u):
        return torch.logsumexp(self.K + u, 2)[:, None]

    def v(self, s):
        return self.b.log() - s

    def error(self, v, s):
        return (v + s).exp_().sub_(self.b).abs_().sum(-1, keepdim=True)

    def plan(self, u, v):
        return self.K.add_(u).add_(v.mT).exp_()


@contextmanager
def full_precision(device_type):
    """No gradient, no autocast, and no TF32 or bfloat16 inside float32 products."""
    knobs = [
        (backend, backend.fp32_precision)
        for backend in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
        if getattr(backend, "fp32_precision", "ieee") not in ("none", "ieee")
    ]
    try:
        for backend, _ in knobs:
            backend.fp32_precision = "ieee"
        autocast = torch.is_autocast_enabled(device_type)
        off = torch.autocast(device_type, enabled=False) if autocast else nullcontext()
        with torch.no_grad(), off:
            yield
    finally:
        for backend, precision in knobs:
            backend.fp32_precision = precision


def _flat(cost, a, b):
    """The batch dimensions as one, without history."""
    *batch, P, L = cost.shape
    n = math.prod(batch)
    return cost.detach().reshape(n, P, L), a.reshape(n, P), b.reshape(n, L)


def _checked(cost, a, b, reg, tol, max_iter, validate):
    """The weights in full, of equal mass, in the type to compute in; or a ValueError."""
    if not torch.is_tensor(cost) or not cost.is_floating_point():
        kind = cost.dtype if torch.is_tensor(cost) else type(cost).__name__
        raise ValueError(f"cost must be a floating-point tensor, not {kind}")
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must be (..., P, L) with P, L >= 1, not {tuple(cost.shape)}")
    if not 0 < reg < math.inf:
        raise ValueError(f"reg is {reg}: it must be positive and finite")
    if not tol >= 0:
        raise ValueError(f"tol is {tol}: it must not be negative")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}: at least 1 is needed")
    *batch, P, L = cost.shape
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    validate = cost.device.type == "cpu" if validate is None else validate
    validate = validate and not (a is None and b is None)
    rounding = 1e-4
    weights = []
    for name, w, size in (("a", a, P), ("b", b, L)):
        if w is None:
            weights.append(torch.full((size,), 1 / size, dtype=dtype, device=cost.device))
            continue
        try:
            fits = w.shape[-1] == size and [*torch.broadcast_shapes(w.shape[:-1], batch)] == batch
        except (RuntimeError, IndexError):
            fits = False
        if not fits:
            raise ValueError(
                f"{name} has shape {tuple(w.shape)}, but costs of shape {tuple(cost.shape)} need "
                f"it to end in {size} and to broadcast over the rest"
            )
        if validate and not (w >= 0).all():
            raise ValueError(f"{name} has weights that are negative or not a number")
        if w.is_floating_point():
            rounding = max(rounding, 2 * torch.finfo(w.dtype).eps)
        weights.append(w.detach().to(dtype))
    a, b = weights
    mass, mass_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    if validate and not ((mass - mass_b).abs() <= rounding * mass_b).all():
        raise ValueError("a and b do not sum to the same mass")
    b = b * (mass / mass_b).nan_to_num(0)  # equal to the last bit, or the error would stay
    return a.expand(*batch, P), b.expand(*batch, L)
