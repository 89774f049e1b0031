"""The weights of a transport problem, in full."""

import torch
from torch import Tensor


def full_weights(cost: Tensor, a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return weights a (..., P) and b (..., L), expanded, of equal mass, in the solver's type.

    Args:
        cost: C, (..., P, L).
        a: weights of the rows, which broadcast over the batch; None is uniform, with mass 1.
            Values are validated on the CPU only: on another device the host would have to wait.
        b: weights of the columns, likewise.

    Raises:
        ValueError: the weights do not make a transport problem.
    """
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
    if w.shape[-1:] != (size,):  # 1 would broadcast
        raise ValueError(f"{name} has shape {tuple(w.shape)}, but must end in {size}")
    if look and not (w >= 0).all():
        raise ValueError(f"{name} has weights that are negative or not a number")
    return w.detach().to(dtype)
