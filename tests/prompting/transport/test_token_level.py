"""Token-level distances equal those of the solver on all costs, for any shapes and chunks."""

import pytest
import torch
import torch.nn.functional as F

from trainers.prompting.transport.scalings import exponent_bound
from trainers.prompting.transport.solver import sinkhorn
from trainers.prompting.transport.token_level import TokenProblems, TokenWeights, token_distances

B, M, P, N, K, L, D = 3, 2, 21, 2, 30, 6, 16
MORE = 1 << 24


def features(shared, peaked=0.0, seed=0):
    """Return r (B, M, P, D), s (N, K, L, D) and the weights of s.

    Classes have `shared` common tokens and 1 to L - shared others.

    Args:
        shared: number of common tokens.
        peaked: from 0 to 1, closeness of every patch to a token of some class.
        seed: of the random numbers.
    """
    g = torch.Generator().manual_seed(seed)
    s = torch.randn(N, K, L, D, generator=g)
    s[:, :, :shared] = s[:, :1, :shared]
    r = torch.randn(B, M, P, D, generator=g)
    some = torch.randint(K * L, (B, M, P), generator=g)
    r = (1 - peaked) * r + peaked * s[0].flatten(0, 1)[some]
    lengths = torch.randint(shared + 1, L + 1, (K, 1), generator=g)
    mass = (torch.arange(L) < lengths) * (0.2 + torch.rand(N, K, L, generator=g))
    mass = mass / mass.sum(-1, keepdim=True)
    return F.normalize(r, dim=-1), F.normalize(s, dim=-1), mass


def both(problem, shared, reg=0.1, max_iter=100, chunk_bytes=MORE):
    """Return the distances, and those of the solver on all costs in float64, without padding.

    `tol` is small: with a larger one, rounding can decide if a problem takes four more iterations.
    """
    r, s, mass = problem
    how = TokenWeights(mass, shared), reg, 1e-6, max_iter, chunk_bytes
    expected = torch.empty(len(r), K, M, N)
    for k in range(K):
        for n in range(N):
            real = mass[n, k] > 0
            C = 1 - torch.einsum("bmpd,ld->bmpl", r.double(), s[n, k, real].double())
            b = mass[n, k, real].double()
            expected[:, k, :, n] = sinkhorn(C, b=b, reg=reg, tol=1e-6, max_iter=max_iter).distance
    return token_distances(TokenProblems(r, s, *how)), expected


@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("peaked", [0.0, 0.7, 0.95])
@pytest.mark.parametrize("max_iter", [1, 100])
def test_distances_equal_those_of_the_solver(shared, peaked, max_iter):
    ours, solver = both(features(shared, peaked), shared, max_iter=max_iter)
    assert ours.shape == (B, K, M, N)
    torch.testing.assert_close(ours, solver, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 200_000])
def test_chunks_change_nothing(chunk_bytes):
    ours, solver = both(features(2, 0.7), 2, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(ours, solver, rtol=1e-5, atol=1e-6)


def test_easy_problems_next_to_hard_ones():
    """Some images are easy, so their problems stop long before the others."""
    r, s, mass = features(2, 0.95)
    r[:2] = features(2, 0.0)[0][:2]
    ours, solver = both((r, s, mass), 2)
    torch.testing.assert_close(ours, solver, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("times", [0.9, 1.0])
def test_the_least_reg_of_float32_holds_opposite_tokens(times):
    r, s, mass = features(1)
    r[..., ::2, :], r[..., 1::2, :] = s[0, 0, 0], -s[0, 0, 0]
    ours, solver = both((r, s, mass), 1, reg=times * 2 / exponent_bound(torch.float32))
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, solver, rtol=1e-5, atol=1e-6)
