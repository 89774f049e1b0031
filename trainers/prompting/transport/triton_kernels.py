"""Token-level transport of Eq. 6 in two Triton kernels, for a GPU.

Each of Q sets of image tokens r (P, D) is compared with each of S sets of text tokens s (L, D):

    C[p, l] = 1 - r[p] . s[l]
    K[p, l] = exp((mean_p C[p, l] - C[p, l]) / reg)    the shift of a column goes into v
    u = a / (K v),  v = b / (K' u)                     a = 1 / P, b the mass; from v = 1, until
                                                       |v K' u - b|_1 <= tol
    T = diag(u) K diag(v)
    d = <T, C>,  dd/dr[p] = -sum_l T[p, l] s[l],  dd/ds[l] = -sum_p T[p, l] r[p]

A program takes one image set and a few text sets. It computes their costs from the features and
iterates in registers, so that no cost matrix and no iterate is written to memory. `_solve` stores d
and, for the backward pass, v, from which `_plans` recomputes T.

Start, steps and stopping rule of each problem are those of `Sinkhorn` in float32.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .problems import TokenProblems, TokenWeights
from .scalings import exponent_bound

LEAST_REG = 2 / exponent_bound(torch.float32)  # for costs 1 - cos, which differ by 2 at most
TILE = 1 << 13  # costs of a program: with their K, 64 KiB of registers
COLUMNS = 64  # text tokens of a program: with more, image tokens are read less often


@triton.jit
def _problems(
    r, s, mass, S, P, L, D, reg,
    GROUP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return costs c and kernels exp((mean c - c) / reg) of a program, and column weights b.

    The first two are (BLOCK_P, GROUP, BLOCK_L), and 0 in padding rows and in columns without mass,
    whose scalings are 0, too.
    """
    p = tl.arange(0, BLOCK_P)[:, None]
    column = tl.arange(0, GROUP * BLOCK_L)[None, :]
    text = tl.program_id(0) * GROUP + column // BLOCK_L
    token = column % BLOCK_L
    r += tl.program_id(1).to(tl.int64) * P * D
    s += tl.program_id(0).to(tl.int64) * GROUP * L * D
    s_row = (column // BLOCK_L * L + token) * D
    cos = tl.zeros((BLOCK_P, GROUP * BLOCK_L), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(r + p * D + d[None, :], mask=(p < P) & (d[None, :] < D), other=0.0)
        y = tl.load(
            s + s_row + d[:, None], mask=(text < S) & (token < L) & (d[:, None] < D), other=0.0
        )
        cos = tl.dot(x.to(tl.float32), y.to(tl.float32), cos, input_precision=PRECISION)

    text = tl.program_id(0) * GROUP + tl.arange(0, GROUP)[:, None]
    token = tl.arange(0, BLOCK_L)[None, :]
    b = tl.load(mass + text * L + token, mask=(text < S) & (token < L), other=0.0)
    total = tl.sum(b, 1)[:, None]
    b = tl.where(total > 0, b / total, 0.0)
    seen = (tl.arange(0, BLOCK_P)[:, None, None] < P) & (b > 0)[None, :, :]
    c = tl.where(seen, 1 - tl.reshape(cos, (BLOCK_P, GROUP, BLOCK_L)), 0.0)
    mean = tl.sum(c, 0) / P
    kernel = tl.where(seen, tl.exp((mean[None, :, :] - c) / reg), 0.0)
    return c, kernel, b


@triton.jit
def _rows(kernel, v, P):
    """Return row scalings u = a / (kernel times v) for the uniform a, (BLOCK_P, GROUP)."""
    total = tl.sum(kernel * v[None, :, :], 2)
    return tl.where(total > 0, 1 / (P * total), 0.0)


@triton.jit(do_not_specialize=["S"])
def _solve(
    r, s, mass, distance, scaling, S, P, L, D, reg, tol, max_iter,
    GROUP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Store <T, C> of a program's problems and, if `scaling` is not None, their v."""
    c, kernel, b = _problems(
        r, s, mass, S, P, L, D, reg, GROUP, BLOCK_P, BLOCK_L, BLOCK_D, PRECISION
    )  # fmt: skip
    v = tl.where(b > 0, 1.0, 0.0)
    active = tl.sum(b, 1) > 0
    going = 1
    for t in range(1, max_iter + 1):
        if going > 0:
            columns = tl.sum(kernel * _rows(kernel, v, P)[:, :, None], 0)
            error = tl.sum(tl.abs(v * columns - b), 1)
            active = active & ((error > tol) | ((t > 4) & (t % 4 != 0))) & (t < max_iter)
            going = tl.max(active.to(tl.int32), 0)
            v = tl.where(active[:, None] & (columns > 0), b / columns, v)
    plan = kernel * _rows(kernel, v, P)[:, :, None] * v[None, :, :]
    value = tl.sum(tl.sum(plan * c, 2), 0)

    text = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    row = tl.program_id(1).to(tl.int64) * S
    tl.store(distance + row + text, value, mask=text < S)
    if scaling is not None:
        token = tl.arange(0, BLOCK_L)[None, :]
        text = text[:, None]
        tl.store(scaling + (row + text) * L + token, v, mask=(text < S) & (token < L))


@triton.jit(do_not_specialize=["S"])
def _plans(
    r, s, mass, scaling, weight, plan, S, P, L, D, reg,
    GROUP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Store the plans of a program's problems, each times its weight, into (Q, P, S, L)."""
    c, kernel, b = _problems(
        r, s, mass, S, P, L, D, reg, GROUP, BLOCK_P, BLOCK_L, BLOCK_D, PRECISION
    )  # fmt: skip
    q = tl.program_id(1).to(tl.int64)
    text = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    token = tl.arange(0, BLOCK_L)
    at = text[:, None] * L + token[None, :]
    inside = (text[:, None] < S) & (token[None, :] < L)
    v = tl.load(scaling + q * S * L + at, mask=inside, other=0.0)
    w = tl.load(weight + q * S + text, mask=text < S, other=0.0)
    value = kernel * (_rows(kernel, v, P) * w[None, :])[:, :, None] * v[None, :, :]
    p = tl.arange(0, BLOCK_P)[:, None, None]
    plan += q * P * S * L
    tl.store(plan + p * (S * L) + at[None, :, :], value, mask=(p < P) & inside[None, :, :])


def token_distances(problems: TokenProblems) -> Tensor:
    """Return <T, C>, C[p, l] = 1 - cos(r[p], s[l]), of every image, class and pair of prompts.

    The distances are (B, K, M, N), float32. The plans are constants in the backward pass. There the
    second kernel recomputes them in chunks, and two matrix products with the features give the
    gradients.
    """
    r, s, mass = problems.r, problems.s, problems.weights.mass.float()
    images, texts = r.shape[:2], s.shape[:2]
    sets = (x.flatten(0, 1).contiguous() for x in (r, s, mass))
    distance = _Distances.apply(*sets, problems)
    return distance.view(*images, *texts).permute(0, 3, 1, 2)


class _Distances(torch.autograd.Function):
    """Distances (Q, S) of image sets r (Q, P, D) to text sets s (S, L, D) with weights (S, L)."""

    @staticmethod
    def forward(ctx, r, s, mass, how):
        distance = mass.new_empty(len(r), len(s))
        scaling = mass.new_empty(len(r), *mass.shape) if any(ctx.needs_input_grad) else None
        _launch(_solve, r, s, mass, (distance, scaling), (how.reg, how.tol, how.max_iter))
        ctx.save_for_backward(r, s, mass, scaling)
        ctx.reg, ctx.chunk_bytes = how.reg, how.chunk_bytes
        return distance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        r, s, mass, scaling = ctx.saved_tensors
        (Q, P, D), (S, L, _) = r.shape, s.shape
        most = max(1, ctx.chunk_bytes // (P * L * mass.element_size()))  # plans
        texts = min(S, most)
        images = min(Q, most // texts)
        grad_r = mass.new_zeros(r.shape) if ctx.needs_input_grad[0] else None
        grad_s = mass.new_zeros(s.shape) if ctx.needs_input_grad[1] else None
        for i in range(0, Q, images):
            for j in range(0, S, texts):
                q, t = slice(i, i + images), slice(j, j + texts)
                weight = -grad[q, t].contiguous()  # of cos = 1 - C
                plan = mass.new_empty(len(r[q]), P, len(s[t]), L)
                tensors = (scaling[q, t].contiguous(), weight, plan)
                _launch(_plans, r[q], s[t], mass[t], tensors, (ctx.reg,))
                plan = plan.view(len(r[q]) * P, -1)
                if grad_r is not None:
                    grad_r[q].view(-1, D).addmm_(plan, s[t].view(-1, D).float())
                if grad_s is not None:
                    grad_s[t].view(-1, D).addmm_(plan.T, r[q].view(-1, D).float())
        return grad_r, grad_s, None, None


def _launch(kernel, r, s, mass, tensors, scalars):
    (Q, P, D), (S, L, _) = r.shape, s.shape
    blocks = _blocks(P, L)
    halves = r.element_size() == s.element_size() == 2  # TF32 represents half precision exactly
    with torch.cuda.device_of(r):  # Triton launches on the current device
        kernel[(triton.cdiv(S, blocks["GROUP"]), Q)](
            *(r, s, mass, *tensors, S, P, L, D, *scalars),
            **blocks,
            PRECISION="tf32" if halves else "tf32x3",
            num_warps=4 if blocks["BLOCK_P"] <= 64 else 8,
        )


def _blocks(P, L):
    """Return the tile of a program: powers of two, with at least 16 where `tl.dot` multiplies."""
    rows, columns = max(16, triton.next_power_of_2(P)), triton.next_power_of_2(L)
    together = max(16, columns, min(COLUMNS, TILE // rows))
    return {"GROUP": together // columns, "BLOCK_P": rows, "BLOCK_L": columns, "BLOCK_D": 16}


_obstacles: dict[tuple, str | None] = {}


def obstacle(problems: TokenProblems, reference) -> str | None:
    """Return the reason why the kernels cannot solve these problems, or None if they can.

    Once for every kind of problem, a few problems are solved to find out if this version of Triton
    compiles the kernels correctly for this device.

    Args:
        problems: the token problems of a batch.
        reference: a function with the argument and result of `token_distances`, to compare with.
    """
    r, s = problems.r, problems.s
    key = r.device, r.dtype, s.dtype, r.shape[2:], s.shape[2:], problems.reg
    if key not in _obstacles:
        _obstacles[key] = _out_of_range(problems) or _disagreement(problems, reference)
    return _obstacles[key]


def _out_of_range(problems):
    P, L = problems.r.shape[2], problems.s.shape[2]
    if problems.reg < LEAST_REG:
        return f"lambda is {problems.reg}, and below {LEAST_REG:.3f} float32 may overflow"
    blocks = _blocks(P, L)
    if blocks["GROUP"] * blocks["BLOCK_P"] * blocks["BLOCK_L"] > 2 * TILE:
        return f"{P} x {L} costs do not fit into registers"
    if problems.r.is_cuda and torch.cuda.get_device_capability(problems.r.device) < (8, 0):
        return "the GPU's compute capability is below 8.0"
    return None


def _disagreement(problems, reference):
    """Solve a few problems with gradients in both ways; return why they disagree, or None."""
    few = replace(
        problems,
        r=problems.r[:1, :2],
        s=problems.s[:2, :2],
        weights=TokenWeights(problems.weights.mass[:2, :2]),
    )
    try:
        own = _with_gradients(token_distances, few)
    except Exception as error:  # any error of the compiler or the driver
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    expected = _with_gradients(reference, few)
    for x, y, tolerance in zip(own, expected, (1e-4, 1e-2, 1e-2), strict=True):
        if not (x - y).norm() <= tolerance * y.norm():
            return "on this device they do not give the same numbers"
    return None


def _with_gradients(solve, problems):
    with torch.inference_mode(False), torch.enable_grad():
        r, s = (x.detach().clone().requires_grad_() for x in (problems.r, problems.s))
        distance = solve(replace(problems, r=r, s=s))
        return distance.detach(), *torch.autograd.grad(distance.sum(), (r, s))
