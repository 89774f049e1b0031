"""Plans without a solver, against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from trainers.prompting.transport.plans import prompt_plan
from trainers.prompting.transport.problems import TokenProblems, TokenWeights
from trainers.prompting.transport.token_level import token_distances


def naive_plan(C, b, plan):
    """T of one problem, C (P, L) and b (L)."""
    P, L = C.shape
    if plan == "uniform":
        return torch.full((P, 1), 1 / P) * b
    T = torch.zeros(P, L)
    for column in range(L):
        T[C[:, column].argmin(), column] = b[column]
    return T


@pytest.mark.parametrize("plan", ["uniform", "nearest"])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_token_level(plan, chunk_bytes):
    B, M, P, N, K, L, D, shared = 3, 2, 7, 2, 4, 5, 8, 2
    torch.manual_seed(0)
    r = F.normalize(torch.randn(B, M, P, D), dim=-1).requires_grad_()
    s = torch.randn(N, K, L, D)
    s[:, :, :shared] = s[:, :1, :shared]
    s = F.normalize(s, dim=-1).requires_grad_()
    lengths = torch.tensor([5, 3, 4, 3])[:, None]
    mass = ((torch.arange(L) < lengths) / lengths).expand(N, K, L)
    problems = TokenProblems(r, s, TokenWeights(mass, shared), chunk_bytes=chunk_bytes)
    found = token_distances(problems, plan)
    C = 1 - torch.einsum("bmpd,nkld->bkmnpl", r, s)
    T = torch.zeros_like(C)
    for i in torch.cartesian_prod(*map(torch.arange, C.shape[:4])):
        b, k, m, n = i.tolist()
        T[b, k, m, n] = naive_plan(C.detach()[b, k, m, n], mass[n, k], plan)
    expected = (T * C).sum((-2, -1))
    torch.testing.assert_close(found, expected)
    # the plan is constant in the backward pass
    weight = torch.randn(found.shape)
    own = torch.autograd.grad((weight * found).sum(), (r, s))
    wanted = torch.autograd.grad((weight * expected).sum(), (r, s))
    torch.testing.assert_close(own[0], wanted[0])
    for grad in (own[1], wanted[1]):  # that of shared tokens may come through the first class
        grad[:, 0, :shared] = grad[:, :, :shared].sum(1)
        grad[:, 1:, :shared] = 0
    torch.testing.assert_close(own[1], wanted[1])


@pytest.mark.parametrize("plan", ["uniform", "nearest"])
def test_prompt_level(plan):
    S = torch.rand(2, 3, 4, 5, requires_grad=True)
    T = prompt_plan(S, plan)
    assert not T.requires_grad
    for i in range(2):
        for k in range(3):
            expected = naive_plan(1 - S.detach()[i, k], torch.full((5,), 0.2), plan)
            torch.testing.assert_close(T[i, k], expected)


def test_of_equally_near_ones_one_is_taken():
    T = prompt_plan(torch.zeros(1, 1, 3, 4), "nearest")
    torch.testing.assert_close(T.sum(-2), torch.full((1, 1, 4), 0.25))
    assert ((T == 0) | (T == 0.25)).all()
