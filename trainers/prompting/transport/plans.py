"""Plans that need no solver, to compare transport with.

Both are constants in the backward pass, as an entropic plan is. With weights a of the rows (image
tokens, visual prompts) and b of the columns (text tokens, textual prompts):

    uniform   T = a b'                  mass goes everywhere alike
    nearest   T[p, l] = b[l] where p = argmin_p' C[p', l], else 0

`nearest` is what remains of transport without entropy when only T' 1 = b has to hold (the relaxed
problem of Kusner et al. 2015, Eq. 8): each word, and each textual prompt, takes the nearest part
of the image. Of equally near ones it takes one.

Kusner et al. From Word Embeddings To Document Distances. ICML 2015.
"""

import torch
from torch import Tensor

from .problems import TokenProblems


def nearest_distance(C: Tensor, b: Tensor) -> Tensor:
    """<T, C> = sum_l b[l] min_p C[p, l] for costs (..., P, L) and weights (..., L) of mass 1."""
    return (b * C.min(-2).values).sum(-1)


def uniform_token_distances(problems: TokenProblems) -> Tensor:
    """<a b', C> = 1 - (sum_p a[p] r[p]) . (sum_l b[l] s[l]), (B, K, M, N): no pair is looked at."""
    mass = problems.weights.mass.float()
    r = problems.r.float().mean(2)  # (B, M, D)
    s = (mass[..., None] * problems.s.float()).sum(2)  # (N, K, D)
    return 1 - torch.einsum("bmd,nkd->bkmn", r, s)


def prompt_plan(S: Tensor, plan: str) -> Tensor:
    """The `uniform` or `nearest` plan of similarities S = 1 - C (..., M, N), uniform weights."""
    M, N = S.shape[-2:]
    if plan == "uniform":
        return torch.full_like(S, 1 / (M * N))
    return torch.zeros_like(S).scatter_(-2, S.detach().argmax(-2, keepdim=True), 1 / N)
