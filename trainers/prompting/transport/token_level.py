"""Token-level transport distances of every image, class and pair of prompts.

They are part of ALIGN's cost: arXiv:2309.13847, Eq. 5 (docs/methods.md, section 3).
"""

from torch import Tensor

from .problems import TokenProblems
from .solver import Sinkhorn

COSINES = 2.0  # the largest difference of two costs 1 - cos


def token_distances(problems: TokenProblems) -> Tensor:
    """Return distances d = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), (B, K, M, N), float32.

    Args:
        problems: the token problems of a batch.
    """
    solver = Sinkhorn(problems.reg, problems.tol, problems.max_iter, spread=COSINES)
    return problems.solve(lambda C, mass: solver(C, b=mass).distance)
