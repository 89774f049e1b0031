"""Plans other than the balanced one, compared with their definitions."""

import itertools
import math

import ot
import pytest
import torch
import torch.nn.functional as F

from trainers.prompting import UserError, build_method, sinkhorn
from trainers.prompting.transport.plans import prompt_plan, unbalanced_plan
from trainers.prompting.transport.problems import TokenProblems, TokenWeights
from trainers.prompting.transport.solver import Sinkhorn
from trainers.prompting.transport.token_level import token_distances


def naive_plan(C, b, plan):
    """Return T of one problem with costs C (P, L) and weights b (L,)."""
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
    for grad in (own[1], wanted[1]):  # shared tokens may get theirs through the first class
        grad[:, 0, :shared] = grad[:, :, :shared].sum(1)
        grad[:, 1:, :shared] = 0
    torch.testing.assert_close(own[1], wanted[1])


@pytest.mark.parametrize(("reg", "rho"), [(0.1, 1.0), (0.01, 0.1), (0.5, 0.05)])
def test_relaxed_marginals_are_those_of_pot(reg, rho):
    torch.manual_seed(0)
    C, b = 2 * torch.rand(3, 6, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    b[0, 2] = 0  # padding
    b /= b.sum(-1, keepdim=True)
    found = unbalanced_plan(C, b, reg, rho, 1e-12, 10_000)
    a = torch.full((6,), 1 / 6, dtype=torch.float64)
    for i in range(3):
        real = b[i] > 0
        T = ot.sinkhorn_unbalanced(
            a, b[i][real], C[i][:, real], reg, rho, reg_type="kl", numItermax=100_000,
            stopThr=1e-14,
        )  # fmt: skip
        torch.testing.assert_close(found[i][:, real], T / T.sum(), rtol=1e-5, atol=1e-9)
        assert (found[i][:, ~real] == 0).all()
        alone = unbalanced_plan(C[i], b[i], reg, rho, 1e-4, 100)
        batched = unbalanced_plan(C, b, reg, rho, 1e-4, 100)[i]
        torch.testing.assert_close(alone, batched, rtol=0, atol=1e-14)
    balanced = unbalanced_plan(C, b, 0.5, math.inf, 1e-12, 10_000)
    expected = Sinkhorn(0.5, 1e-12, 10_000)(C, b=b).plan
    torch.testing.assert_close(balanced, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("plan", ["scaled", "unbalanced", "pooled"])
def test_plans_at_the_token_level(tiny_clip, plan):
    """Compares the logits of a model with the definition of its plan."""
    names = ["forest", "annual crop land"]
    node = {"M": 2, "N": 2, "DEPTH": 2, "PLAN": plan, "RHO": 0.2, "LAMBDA": 0.3}
    node |= {"SINKHORN_TOL": 1e-7, "SINKHORN_MAX_ITER": 2000}
    method = build_method("ALIGN", node, tiny_clip, names).eval()
    output = method.model.output(torch.randn(3, 3, 32, 32))
    (z, r, *_), text = output.image, output.text
    for j, k in itertools.product(range(3), range(2)):
        d = torch.zeros(2, 2)
        for m, n in itertools.product(range(2), range(2)):
            C = 1 - r[j, m] @ text.s[n, k].T
            b = text.s_weights.mass[n, k]
            if plan == "pooled":
                d[m, n] = 1 - r[j, m].mean(0) @ text.h[n, k]
                continue
            T = unbalanced_plan(C, b, 0.3, 0.2, 1e-7, 2000)
            if plan == "scaled":
                C, b = C[:, b > 0], b[b > 0]
                reg = 0.3 * float(C.std(correction=0))
                T = sinkhorn(C, b=b, reg=reg, tol=1e-7, max_iter=2000).plan
            d[m, n] = (T * C).sum()
        S = z[j] @ text.h[:, k].T - d
        deviation = float(S.std(correction=0)) if plan == "scaled" else 1.0
        T = sinkhorn(1 - S, reg=0.3 * deviation, tol=1e-7, max_iter=2000).plan
        expected = method.model.logit_scale * (T * S).sum()
        torch.testing.assert_close(output.logits[j, k], expected, rtol=0, atol=2e-4)


def test_patches_of_the_value_path(tiny_clip):
    method = build_method("ALIGN", {"DEPTH": 2, "PATCHES": "values"}, tiny_clip, ["sea", "road"])
    output = method.train().model.output(torch.randn(3, 3, 32, 32))
    assert output.image.r.shape == (3, 4, 16, 64) and output.image.values is None
    method.backward({"loss": output.logits.logsumexp(1).mean()})
    assert method.model.prompt_learner.ctx.grad.abs().max() > 0
    with pytest.raises(UserError, match="PATCHES is 'value' but must be one of states, values"):
        build_method("ALIGN", {"PATCHES": "value"}, tiny_clip, ["sea", "road"])
    with pytest.raises(UserError, match="RHO is 0"):
        build_method("ALIGN", {"RHO": 0.0, "DEPTH": 2}, tiny_clip, ["sea", "road"])


@pytest.mark.parametrize("plan", ["uniform", "nearest"])
def test_prompt_level(plan):
    S = torch.rand(2, 3, 4, 5, requires_grad=True)
    T = prompt_plan(S, plan)
    assert not T.requires_grad
    for i in range(2):
        for k in range(3):
            expected = naive_plan(1 - S.detach()[i, k], torch.full((5,), 0.2), plan)
            torch.testing.assert_close(T[i, k], expected)


def test_one_of_several_nearest_is_taken():
    T = prompt_plan(torch.zeros(1, 1, 3, 4), "nearest")
    torch.testing.assert_close(T.sum(-2), torch.full((1, 1, 4), 0.25))
    assert ((T == 0) | (T == 0.25)).all()
