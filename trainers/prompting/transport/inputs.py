"""Checks of the inputs of the transport solver."""

import math

import torch
from torch import Tensor


def check_solver_settings(reg: float, tol: float, max_iter: int) -> None:
    """Raise ValueError if a setting of a solver is out of range."""
    if not 0 < reg < math.inf:
        raise ValueError(f"reg is {reg}: it must be positive and finite")
    if not tol >= 0:
        raise ValueError(f"tol is {tol}: it must not be negative")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}: at least 1 is needed")


def full_weights(cost: Tensor, a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return weights a (..., P) and b (..., L), expanded, of equal mass, in the solver's type.

    Args:
        cost: C, (..., P, L).
        a: weights of the rows, which broadcast over the batch; None is uniform, with mass 1.
            Values are validated on the CPU only: on another device the host would have to wait.
        b: weights of the columns, likewise.

    Raises:
        ValueError: types, shapes or weights do not make a transport problem.
    """
    if not torch.is_tensor(cost) or not cost.is_floating_point():
        kind = cost.dtype if torch.is_tensor(cost) else type(cost).__name__
        raise ValueError(f"cost must be a floating-point tensor, not {kind}")
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must be (..., P, L) with P, L >= 1, not {tuple(cost.shape)}")
    *batch, P, L = cost.shape
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    given = not (a is None and b is None)
    look = given and cost.device.type == "cpu" and not torch.compiler.is_compiling()
    rounding = max(1e-4, _rounding(a), _rounding(b))
    a = _in_full("a", a, P, cost, dtype, look)
    b = _in_full("b", b, L, cost, dtype, look)
    if given:
        mass, mass_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
        if look and not ((mass - mass_b).abs() <= rounding * mass_b).all():
            raise ValueError("a and b do not sum to the same mass")
        b = b * (mass / mass_b).nan_to_num(0)  # exactly equal: a difference would stay as error
    return a.expand(*batch, P), b.expand(*batch, L)


def _rounding(w: Tensor | None) -> float:
    """Return the tolerance for a sum of 1 whose terms were rounded to the type of w."""
    return 2 * torch.finfo(w.dtype).eps if w is not None and w.is_floating_point() else 0.0


def _in_full(name, w, size, cost, dtype, look) -> Tensor:
    """Return the weights of one side in `dtype`, (size,) or with batch dimensions."""
    if w is None:
        return torch.full((size,), 1 / size, dtype=dtype, device=cost.device)
    batch = cost.shape[:-2]
    try:
        fits = w.shape[-1] == size and w.expand(*batch, size).shape
    except (RuntimeError, IndexError):
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(w.shape)}, but costs of shape {tuple(cost.shape)} need "
            f"it to end in {size} and to broadcast over the rest"
        )
    if look and not (w >= 0).all():
        raise ValueError(f"{name} has weights that are negative or not a number")
    return w.detach().to(dtype)
