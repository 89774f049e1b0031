"""Token-level transport distances of every image, class and pair of prompts.

They are part of ALIGN's cost, arXiv:2309.13847, Eq. 6 (docs/methods.md, section 3).

On a GPU fused kernels compute them (`triton_kernels`), elsewhere `Sinkhorn` on the costs of a piece
at a time.
"""

import os
from functools import cache, partial

from torch import Tensor

from .problems import TokenProblems
from .solver import Sinkhorn

COSINES = 2.0  # the largest difference of two costs 1 - cos


def token_distances(problems: TokenProblems, fused: bool = True) -> Tensor:
    """Return distances d = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), (B, K, M, N), float32.

    Args:
        problems: the token problems of a batch.
        fused: use the fused kernels if they work here.
    """
    if fused and (problems.r.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        try:
            from . import triton_kernels as kernels

            obstacle = kernels.obstacle(problems, reference=partial(token_distances, fused=False))
        except ImportError as error:
            obstacle = str(error)
        if obstacle is None:
            return kernels.token_distances(problems)
        say_once(f"Token-level transport runs in PyTorch, without fused kernels: {obstacle}")
    solver = Sinkhorn(problems.reg, problems.tol, problems.max_iter, spread=COSINES)
    return problems.solve(lambda C, mass: solver(C, b=mass).distance)


say_once = cache(print)
