"""The choice between the fused kernel and the solver's loop, in one place."""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .scalings import LogScalings

Result = tuple[Tensor, Tensor, Tensor, Tensor]  # as SinkhornResult, which is one


def fused(solver: Any, C: Tensor, a: Tensor, b: Tensor, uniform: bool) -> Result:
    """Solve the problems of a chunk as `Sinkhorn.solve`, on a GPU with the fused kernel.

    It takes problems whose arithmetic is known without a look at the costs and needs no logarithms.
    If it does not work here, one line says why.
    """
    has_triton = C.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    bounded = solver.spread is not None and C.numel() > 0
    if not (has_triton and bounded) or torch.compiler.is_compiling():
        return solver.solve(C, a, b, uniform)
    C = C.to(a.dtype)
    ((Steps, dtype, _),) = solver.arithmetics(C)
    if Steps is LogScalings:
        return solver.solve(C, a, b, uniform)
    try:
        from . import triton_kernels as kernels

        obstacle = kernels.obstacle(solver, C, a, b, dtype)
    except ImportError as error:
        obstacle = str(error)
    if obstacle is None:
        return kernels.solve(solver, C, a, b, dtype)
    say_once(f"Transport runs in PyTorch, without the fused kernel: {obstacle}")
    return solver.solve(C, a, b, uniform)


say_once = cache(print)
