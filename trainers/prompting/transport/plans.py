"""Other transport plans, to compare the balanced entropic one with.

Like that one, all are constants in the backward pass. With weights a of the rows (image tokens,
visual prompts) and b of the columns (text tokens, textual prompts):

    uniform      T = a b'
    nearest      T[p, l] = b[l] where p = argmin_p' C[p', l], else 0
    scaled       the balanced plan whose lambda is LAMBDA times the standard deviation of C
    unbalanced   argmin <T, C> + lambda KL(T | a b') + rho (KL(T 1 | a) + KL(T' 1 | b)), over its
                 mass
    pooled       no plan: patches and the whole text, d = sum_p a[p] (1 - r[p] . h)

`nearest` solves transport without entropy if only T' 1 = b has to hold (the relaxed problem of
Kusner et al. 2015, Eq. 8): each word, and each textual prompt, takes the nearest part of the image,
and any one of several equally near. `unbalanced` and `pooled` are for tokens; prompts then have the
balanced plan.

Kusner et al. From Word Embeddings To Document Distances. ICML 2015.
Chizat et al. Scaling Algorithms for Unbalanced Optimal Transport Problems. Math. Comp. 2018.
arXiv:1607.05816.
"""

import math

import torch
from torch import Tensor

from .problems import TokenProblems
from .solver import Sinkhorn


def nearest_distance(C: Tensor, b: Tensor) -> Tensor:
    """Return <T, C> = sum_l b[l] min_p C[p, l], for costs (..., P, L), weights (..., L), mass 1."""
    return (b * C.min(-2).values).sum(-1)


def scaled_plan(C: Tensor, b: Tensor | None, solver: Sinkhorn) -> Tensor:
    """Return the balanced plan of costs (..., P, L) divided by their standard deviation."""
    C = C.detach()
    deviation = C.std((-2, -1), correction=0, keepdim=True)
    return solver(C / deviation.clamp_min(torch.finfo(C.dtype).tiny), b=b).plan


@torch.no_grad()
def unbalanced_plan(
    C: Tensor, b: Tensor, reg: float, rho: float, tol: float, max_iter: int
) -> Tensor:
    """Return the plan with relaxed marginals and mass 1 (Chizat et al. 2018, Algorithm 1).

    The iteration is on logarithms.

    Args:
        C: costs (..., P, L); the weights of the rows are uniform.
        b: weights of the columns (..., L), of mass 1.
        reg: lambda.
        rho: weight of the marginals; infinity is balanced.
        tol: a problem has converged if no logarithm of its v changes by more than this.
        max_iter: the most iterations.
    """
    has_mass = b[..., None, :] > 0
    log_a, log_b = -math.log(C.shape[-2]), b[..., None, :].clamp_min(1e-30).log()
    x = (log_a + log_b - C / reg).masked_fill(~has_mass, -math.inf)
    share = 1.0 if rho == math.inf else rho / (rho + reg)
    log_v = torch.zeros_like(x[..., :1, :])
    active = torch.ones_like(x[..., :1, :1], dtype=torch.bool)
    for _ in range(max_iter):
        log_u = share * (log_a - torch.logsumexp(x + log_v, -1, keepdim=True))
        rows = torch.logsumexp((x + log_u).masked_fill(~has_mass, 0), -2, keepdim=True)
        new = torch.where(active, share * (log_b - rows), log_v)
        active = active & ((new - log_v) * has_mass).abs().amax(-1, keepdim=True).gt(tol)
        log_v = new
        if not torch.compiler.is_compiling() and not C.is_cuda and not active.any():
            break
    log_u = share * (log_a - torch.logsumexp(x + log_v, -1, keepdim=True))
    T = (x + log_u + log_v).exp()
    return T / T.sum((-2, -1), keepdim=True)


def token_plan(
    plan: str, C: Tensor, b: Tensor, reg: float, rho: float, tol: float, max_iter: int
) -> Tensor:
    """Return the `sinkhorn`, `scaled` or `unbalanced` plan of costs (..., P, L), no gradient."""
    if plan == "scaled":
        return scaled_plan(C, b, Sinkhorn(reg, tol, max_iter))
    if plan == "unbalanced":
        return unbalanced_plan(C, b, reg, rho, tol, max_iter)
    return Sinkhorn(reg, tol, max_iter)(C.detach(), b=b).plan


def pooled_token_distances(problems: TokenProblems, h: Tensor) -> Tensor:
    """Return 1 - mean_p r[p] . h, (B, K, M, N), with the prompt-level features h (N, K, D)."""
    return 1 - torch.einsum("bmd,nkd->bkmn", problems.r.float().mean(2), h.float())


def uniform_token_distances(problems: TokenProblems) -> Tensor:
    """Return <a b', C> = 1 - (sum_p a[p] r[p]) . (sum_l b[l] s[l]), (B, K, M, N), without C."""
    mass = problems.weights.mass.float()
    r = problems.r.float().mean(2)  # (B, M, D)
    s = (mass[..., None] * problems.s.float()).sum(2)  # (N, K, D)
    return 1 - torch.einsum("bmd,nkd->bkmn", r, s)


def prompt_plan(S: Tensor, plan: str) -> Tensor:
    """Return the `uniform` or `nearest` plan for S = 1 - C (..., M, N) and uniform weights."""
    M, N = S.shape[-2:]
    if plan == "uniform":
        return torch.full_like(S, 1 / (M * N))
    return torch.zeros_like(S).scatter_(-2, S.detach().argmax(-2, keepdim=True), 1 / N)
