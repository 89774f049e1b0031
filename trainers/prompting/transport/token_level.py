"""Token-level transport distances of every image, class and pair of prompts.

They are part of ALIGN's cost, arXiv:2309.13847, Eq. 6.

There are three ways to the same numbers: fused kernels on a GPU (`triton_kernels`); `Sinkhorn` on
the costs of a piece at a time, if a gradient is needed; and otherwise `without_gradient`, which
makes about half as many passes over memory. Letters as in `problems` and `scalings`; the kernels
exp(x) are called `kernel...` here, as K is the number of classes.
"""

import math
import os
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision
from .problems import TokenProblems
from .scalings import LEAST_REG, SharedScalings, over_rows
from .solver import Sinkhorn, chunk_bytes_of

WIDTH = 16  # image tokens are padded to a multiple of this, which makes products faster
CHUNKS = 6  # a piece is this many of the solver's chunks, as there are fewer passes over it
COSINES = 2.0  # the largest difference of two costs 1 - cos


def token_distances(problems: TokenProblems) -> Tensor:
    """Return distances d = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), (B, K, M, N), float32."""
    if problems.r.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        try:
            from . import triton_kernels as kernels

            obstacle = kernels.obstacle(problems, reference=plain_token_distances)
        except ImportError as error:
            obstacle = str(error)
        if obstacle is None:
            return kernels.token_distances(problems)
        say_once(f"Token-level transport runs in PyTorch, without fused kernels: {obstacle}")
    return plain_token_distances(problems)


say_once = cache(print)


def plain_token_distances(problems: TokenProblems) -> Tensor:
    """Return the same distances, computed in PyTorch, a piece at a time."""
    simple = problems.wants_gradient or torch.compiler.is_compiling()
    if problems.reg >= LEAST_REG and not simple:
        return without_gradient(problems)
    solver = Sinkhorn(problems.reg, problems.tol, problems.max_iter, spread=COSINES)
    return problems.solve(lambda C, mass: solver(C, b=mass).distance)


def without_gradient(problems: TokenProblems) -> Tensor:
    """Return the distances that `Sinkhorn` finds for C[p, l] = 1 - r[p] . s[l], without gradient.

    The exponents x are one matrix product with the patches minus their mean, divided by `reg`;
    columns of tokens that all classes share are computed once. `reg` must be at least `LEAST_REG`,
    so that float32 holds the exponents of all cosines.

    Without this function an evaluation with 1000 classes takes 3% longer, in bfloat16 4%; without
    `CHUNKS` 3%, in bfloat16 8%; without `WIDTH` 1 to 2%.
    """
    reg, shared, mass = problems.reg, problems.weights.shared, problems.weights.mass
    solver = Sinkhorn(reg, problems.tol, problems.max_iter)
    r, s = problems.r.float(), problems.s.float()
    (B, M, P, D), (N, K, *_) = r.shape, s.shape
    found = r.new_empty(B, K, M, N)
    with full_precision(r.device.type):
        mean = r.mean(2)  # (B, M, D)
        patches = F.pad(((r - mean[:, :, None]) / reg).mT, (0, -P % WIDTH))
        width = patches.shape[-1]
        a = (torch.arange(width, device=r.device) < P) / P  # no mass beyond the patches
        first = s[:, 0, :shared].reshape(-1, D)
        C_first = (1 - mean @ first.T).view(B, M, N, 1, shared)  # means of the columns
        x_first = torch.matmul(first, patches).view(B, M, N, shared, width)
        kernel_first = x_first.exp()
        kernel_x_first = x_first.mul_(kernel_first)
        for images, classes, length in problems.pieces(CHUNKS * chunk_bytes_of(r.device)):
            tokens = s.index_select(1, classes)[:, :, shared:length].reshape(-1, D)
            shape = len(mean[images]), M, N, len(classes)
            n = math.prod(shape)
            x = torch.matmul(tokens, patches[images]).view(n, length - shared, width)
            b = mass.index_select(1, classes)[..., :length]
            b = b / b.sum(-1, keepdim=True)
            scalings = SharedScalings(
                x.exp(),
                a.expand(n, 1, width),
                b.expand(*shape, length).reshape(n, 1, length),
                kernel_first[images].flatten(0, 2),
            )
            state = solver.iterate(scalings)
            # C = mean C - reg x, so <T, C> needs T's column sums and <T, x>
            sums = state.v * state.w
            kernel_x = x.mul_(scalings.kernel)
            inner = state.v * over_rows(state.u, kernel_x_first[images].flatten(0, 2), kernel_x)
            C_own = (1 - mean[images] @ tokens.T).view(*shape, length - shared)
            C = torch.cat([C_first[images].expand(*shape, shared), C_own], -1)
            value = (sums.view(C.shape) * C - reg * inner.view(C.shape)).sum(-1)
            found[images, classes] = value.permute(0, 3, 1, 2)
    return found
