"""Token-level transport distances from the features, where no gradient is asked for.

What `sinkhorn` finds for the costs C[p, l] = 1 - r[p] . s[l] of every image, class and pair of
prompts, in about half the passes over memory: with centred patches a matrix product gives the
exponents x = (mean C - C) / reg at once, and tokens that all classes share stand once for all.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .solver import Scalings, chunk_bytes_of, full_precision, iterate

WIDTH = 16  # products are faster on rows of a multiple of so many patches


@dataclass
class SharedScalings(Scalings):
    """The steps on u (n, 1, P) and v (n, 1, c + L) where the first c tokens are shared.

    Attributes:
        K: (n, L, P), of each problem's own tokens.
        shared: (g, c, P), the same for n / g problems in a row.
    """

    shared: Tensor

    def __getitem__(self, problems):
        group = problems // (len(self.K) // len(self.shared))
        K = torch.cat([self.shared[group], self.K[problems]], 1)
        return Scalings(K, self.a[problems], self.b[problems])

    def u(self, v):
        g, c, P = self.shared.shape
        rows = torch.bmm(v[..., :c].reshape(g, len(v) // g, c), self.shared).view(len(v), 1, P)
        return self.a / torch.baddbmm(rows, v[..., c:], self.K, out=rows)

    def columns(self, u):
        return over_patches(u, self.shared, self.K)


def over_patches(u: Tensor, shared: Tensor, own: Tensor) -> Tensor:
    """u (n, 1, P) times X (g, c, P), shared, and times X (n, L, P): (n, 1, c + L)."""
    g, c, P = shared.shape
    first = torch.bmm(u.view(g, len(u) // g, P), shared.mT).view(len(u), 1, c)
    return torch.cat([first, torch.bmm(u, own.mT)], 2)


def distances(
    r: Tensor,
    s: Tensor,
    s_mass: Tensor,
    reg: float,
    tol: float,
    max_iter: int,
    chunk_bytes: int,
    shared: int,
    groups: list[tuple[int, Tensor]],
) -> Tensor:
    """<T, C> for every image, class and pair of prompts, (B, K, M, N), float32.

    Args:
        r: (B, M, P, D); s: (N, K, L, D); s_mass: (N, K, L); float32.
        reg: at least `sinkhorn.LEAST_REG`: float32 holds the exponents of all cosines then.
        chunk_bytes: the most memory that the exponents of a chunk may take.
        shared: how many of the L tokens, the first, are the same for all classes.
        groups: numbers of tokens, each with the classes (k,) that have so many.
    """
    (B, M, P, D), (N, K, *_) = r.shape, s.shape
    with full_precision(r.device.type):
        r = r.flatten(0, 1)  # one row for each image and visual prompt
        mean = r.mean(1)
        patches = r.new_zeros(len(r), D, P + -P % WIDTH)
        torch.div(r - mean[:, None], reg, out=patches[..., :P].mT)
        width = patches.shape[2]
        a = (torch.arange(width, device=r.device) < P) / P  # no mass beyond the patches
        first = s[:, 0, :shared].reshape(-1, D)
        C_first = (1 - mean @ first.T).view(len(r), N, 1, shared)  # means of the columns
        X_first = torch.matmul(first, patches).view(len(r), N, shared, width)
        K_first = X_first.exp()
        KX_first = X_first.mul_(K_first)
        chunk_bytes = min(chunk_bytes, 2 * chunk_bytes_of(r.device))
        pairs = chunk_bytes // (N * width * r.element_size())  # of a row of r and a token
        found = r.new_empty(len(r), N, K)
        for length, classes in groups:
            own = length - shared
            most = max(1, pairs // max(1, own))
            for some in classes.split(most):
                k = len(some)
                tokens = s.index_select(1, some)[:, :, shared:length].reshape(-1, D)
                C_own = (1 - mean @ tokens.T).view(len(r), N, k, own)
                b = s_mass.index_select(1, some)[..., :length]
                b = b / b.sum(-1, keepdim=True)
                dense = bool(b.all())
                for start in range(0, len(r), max(1, most // k)):
                    at = slice(start, start + max(1, most // k))
                    shape = len(mean[at]), N, k
                    n = math.prod(shape)
                    X = torch.matmul(tokens, patches[at]).view(n, own, width)
                    steps = SharedScalings(
                        X.exp(),
                        a.expand(n, 1, width),
                        b.expand(*shape, length).reshape(n, 1, length),
                        K_first[at].flatten(0, 1),
                    )
                    u, v, *_ = iterate(steps, steps.start(dense), tol, max_iter)
                    # C = mean C - reg x, so <T, C> needs T's column sums and <T, x>
                    sums = v * steps.columns(u)
                    inner = v * over_patches(u, KX_first[at].flatten(0, 1), X.mul_(steps.K))
                    C = torch.cat([C_first[at].expand(*shape, shared), C_own[at]], 3)
                    value = (sums.view(C.shape) * C - reg * inner.view(C.shape)).sum(3)
                    found[at, :, some] = value
    return found.view(B, M, N, K).permute(0, 3, 1, 2)
