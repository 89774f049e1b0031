"""Token-level problems: costs, shared tokens, groups, and distances of any shapes and chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.prompting import sinkhorn
from trainers.prompting.transport.scalings import exponent_bound
from trainers.prompting.transport.token_level import (
    TokenProblems,
    TokenWeights,
    costs,
    token_distances,
)

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


def both(problem, shared, reg=0.1, max_iter=100):
    """Return the distances, and those of the solver on all costs in float64, without padding.

    `tol` is small: with a larger one, rounding can decide if a problem takes four more iterations.
    """
    r, s, mass = problem
    how = TokenWeights(mass, shared), reg, 1e-6, max_iter, MORE
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


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_token_costs_and_their_gradient(shared):
    torch.manual_seed(0)
    shapes = (2, 2, 5, 3), (2, 4, 3, 3), (2, 1, shared, 3)
    r, own, common = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    some = torch.tensor([3, 0])

    def costs_of(r, own, common):
        s = torch.cat([common.expand(-1, 4, -1, -1), own], 2)
        return costs(r, s, some, shared, shared + 2)

    s = torch.cat([common.expand(-1, 4, -1, -1), own], 2)[:, some, : shared + 2]
    expected = 1 - torch.einsum("bmpd,nkld->bkmnpl", r, s)
    torch.testing.assert_close(costs_of(r, own, common), expected)
    found, wanted = (
        torch.autograd.grad((C**2).sum(), (r, own, common))
        for C in (costs_of(r, own, common), expected)
    )
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 20])
@pytest.mark.parametrize("shared", [1, 3])
def test_shared_tokens_and_lengths_change_no_distance(shared, chunk_bytes):
    """Classes have 3 to 6 tokens, unsorted; the reference solves each class separately."""
    torch.manual_seed(0)
    normalized = nn.functional.normalize
    r = normalized(torch.randn(3, 2, 7, 8), dim=-1).requires_grad_(True)
    s = torch.randn(2, 5, 6, 8)
    s[:, :, :shared] = s[:, :1, :shared]
    s = normalized(s, dim=-1).requires_grad_(True)
    lengths = torch.tensor([5, 3, 6, 3, 4])
    mass = (torch.arange(6) < lengths[:, None]) / lengths[:, None]
    options = {"reg": 0.1, "tol": 1e-6, "max_iter": 500}
    weights = torch.randn(3, 5, 2, 2)

    def of_one(k):
        part = s[:, k : k + 1, : lengths[k]]
        weights = TokenWeights(mass[k, : lengths[k]].expand(2, 1, -1))
        return token_distances(TokenProblems(r, part, weights, **options))

    alone = torch.cat([of_one(k) for k in range(5)], 1)
    token_weights = TokenWeights(mass.expand(2, 5, 6), shared)
    problems = TokenProblems(r, s, token_weights, **options, chunk_bytes=chunk_bytes)
    together = token_distances(problems)
    torch.testing.assert_close(together, alone)
    (alone * weights).sum().backward()
    one_by_one = r.grad, s.grad.clone()
    r.grad = s.grad = None
    (together * weights).sum().backward()
    # shared tokens get their gradient through the first class
    summed = one_by_one[1], s.grad
    for grad in summed:
        grad[:, 0, :shared] = grad[:, :, :shared].sum(1)
        grad[:, 1:, :shared] = 0
    torch.testing.assert_close(r.grad, one_by_one[0])
    torch.testing.assert_close(summed[1], summed[0])


def test_every_problem_is_in_one_piece():
    mass = torch.zeros(2, 6, 5)
    for k, length in enumerate([5, 2, 4, 2, 2, 1]):
        mass[:, k, :length] = 1 / length
    mass[1, 2] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])  # shorter with one of the prompts
    weights = TokenWeights(mass)
    groups = [(length, classes.tolist()) for length, classes in weights.groups]
    assert groups == [(1, [5]), (2, [1, 3, 4]), (4, [2]), (5, [0])]
    r, s = torch.rand(5, 2, 3, 4), torch.rand(2, 6, 5, 4)
    for chunk_bytes in (1, 300, 700, 1 << 20):
        seen = torch.zeros(5, 6)
        for piece in TokenProblems(r, s, weights, chunk_bytes=chunk_bytes).pieces():
            seen[piece.images, piece.classes] += 1
            some = len(seen[piece.images]) * len(piece.classes)
            assert some == 1 or 4 * some * 2 * 2 * 3 * piece.length <= chunk_bytes
        assert (seen == 1).all()


@pytest.mark.parametrize("shared", [0, 1])
def test_the_host_reads_no_values(shared):
    """Runs on the meta device, which has no values: reading one on the host raises."""
    lengths = torch.tensor([3, 2, 3])[:, None]
    weights = TokenWeights(((torch.arange(3) < lengths) / lengths)[None], shared).to("meta")
    r = torch.rand(2, 1, 5, 4, device="meta", requires_grad=True)
    s = torch.rand(1, 3, 3, 4, device="meta", requires_grad=True)
    problems = TokenProblems(r, s, weights)
    distance = token_distances(problems)
    assert distance.shape == (2, 3, 1, 1)
    distance.sum().backward()
    assert r.grad.shape == r.shape and s.grad.shape == s.shape
