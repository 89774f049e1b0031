"""The solver in one Triton kernel, for a GPU: a program solves a problem and stops by itself.

Step by step, an iteration is seven launches, and all `max_iter` are computed, because the host
would have to wait in order to stop earlier. Here costs are read once, iterates stay in registers,
and only the result is written.

Start, steps and stopping rule are those of `Sinkhorn`, and letters and shapes those of `solver`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 1 << 16  # bytes of a problem's costs: with K, at most 64 registers of a thread
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
Result = tuple[Tensor, Tensor, Tensor, Tensor]


@triton.jit(do_not_specialize=["L", "n_step", "l_step", "a_step", "b_step"])
def _solve(
    cost, a, b, plan, distance, iterations, error, P, L,
    n_step, l_step, a_step, b_step, tol, max_iter,
    REG: tl.constexpr, DTYPE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Solve problem i = program_id: store T, <T, C>, the iterations and the error.

    Without mass, K and the scalings are 0. A nan cost gives nan, as in `Sinkhorn`.
    Costs have their own steps: shared with the plan, addresses would stay in registers meanwhile.
    """
    i = tl.program_id(0).to(tl.int64)
    p = tl.arange(0, BLOCK_P)[None, :]
    col = tl.arange(0, BLOCK_L)[:, None]
    a = tl.load(a + i * a_step + p, mask=p < P, other=0.0).to(DTYPE)
    b = tl.load(b + i * b_step + col, mask=col < L, other=0.0).to(DTYPE)
    seen = (a > 0) & (b > 0)
    c = tl.load(cost + i * n_step + col * l_step + p, mask=seen, other=0.0).to(DTYPE)
    mean = tl.sum(c * a, 1)[:, None] / tl.sum(a)
    mean = tl.where(tl.abs(mean) < float("inf"), mean, 0.0)
    kernel = tl.where(seen, tl.exp((mean - c) / REG), 0.0)
    u = a
    v = tl.where(b > 0, 1.0, 0.0).to(DTYPE)
    left = tl.sum(b)
    t = 0
    active = True
    while active:
        t += 1
        u = tl.where(a > 0, a / tl.sum(kernel * v, 0)[None, :], 0.0)
        w = tl.sum(kernel * u, 1)[:, None]
        left = tl.sum(tl.abs(v * w - b))
        active = ((left > tol) | ((t > 4) & (t % 4 != 0))) & (t < max_iter)
        v = tl.where(active, tl.where(b > 0, b / w, 0.0), v)
    T = kernel * u * v
    tl.store(plan + i * P * L + col * P + p, T, mask=(p < P) & (col < L))
    tl.store(distance + i, tl.sum(T * c))
    tl.store(iterations + i, t)
    tl.store(error + i, left)


def solve(solver: Any, C: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Result:
    """Return the plans (n, L, P), distances, iterations and errors (n,) of n problems.

    Args:
        C: costs, (n, L, P).
        a: weights of the rows, (n, 1, P).
        b: weights of the columns, (n, 1, L).
        dtype: of the arithmetic.
    """
    n, L, P = C.shape
    plan, (distance, error) = a.new_empty(C.shape), a.new_empty(2, n)
    iterations = torch.empty_like(distance, dtype=torch.long)
    C, a, b = (x if x.stride(2) == 1 else x.contiguous() for x in (C, a, b))
    with torch.cuda.device_of(C):  # Triton launches on the current device
        _solve[(n,)](
            *(C, a, b, plan, distance, iterations, error, P, L),
            *(*C.stride()[:2], a.stride(0), b.stride(0), solver.tol, solver.max_iter),
            **options(P, L, solver.reg, dtype),
        )
    return plan, distance, iterations, error


def options(P: int, L: int, reg: float, dtype: torch.dtype) -> dict[str, Any]:
    """Return the constants of the kernel, and the number of warps."""
    rows, columns = triton.next_power_of_2(P), triton.next_power_of_2(L)
    warps = min(16, max(1, rows * columns * dtype.itemsize >> 10))  # 32 bytes of C a thread
    constants = {"REG": reg, "DTYPE": TYPES[dtype], "BLOCK_P": rows, "BLOCK_L": columns}
    return {**constants, "num_warps": warps}


_obstacles: dict[tuple, str | None] = {}


def obstacle(solver: Any, C: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> str | None:
    """Return the reason why the kernel cannot solve these problems, or None if it can.

    Once for every kind of problem, a few are solved to find out if this version of Triton compiles
    the kernel correctly for this device. The arguments are those of `solve`.
    """
    L, P = C.shape[1:]
    how = options(P, L, solver.reg, dtype)
    key = C.device, C.dtype, *how.values()
    if key not in _obstacles:
        if how["BLOCK_P"] * how["BLOCK_L"] * dtype.itemsize > MOST:
            _obstacles[key] = f"{P} x {L} costs do not fit into registers"
        else:
            _obstacles[key] = _disagreement(solver, C[:3].nan_to_num(0, 0, 0), a[:3], b[:3], dtype)
    return _obstacles[key]


def _disagreement(solver, C, a, b, dtype):
    """Solve a few problems in both ways; return why they disagree, or None."""
    try:
        own = solve(solver, C, a, b, dtype)
    except Exception as error:  # any error of the compiler or the driver
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    expected = solver.solve(C, a, b, uniform=False)
    for x, y, tolerance in zip(own[:2], expected[:2], (1e-2, 1e-4), strict=True):
        if not (x - y).norm() <= tolerance * y.norm():
            return "on this device it does not give the same numbers"
    return None
