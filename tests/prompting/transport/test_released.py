"""The solver of the published codes, compared with a plain loop."""

import math

import pytest
import torch

from trainers.prompting.transport import solver
from trainers.prompting.transport.released import sinkhorn_released
from trainers.prompting.transport.solver import Sinkhorn


def test_group_dims_must_exist():
    with pytest.raises(ValueError, match="group_dims is 2"):
        sinkhorn_released(torch.rand(2, 3, 4), group_dims=2)


def naive_released(cost, a, b, reg=0.1, tol=1e-2, max_iter=100):
    """Solve one group (n, P, L) as the public code does; return plans and iterations."""
    K = torch.exp(-cost / reg)
    r, c = torch.ones_like(a), torch.ones_like(b)
    for t in range(max_iter):  # noqa: B007
        r0 = r
        r = a / torch.matmul(K, c.unsqueeze(-1)).squeeze(-1)
        c = b / torch.matmul(K.transpose(1, 2), r.unsqueeze(-1)).squeeze(-1)
        if (r - r0).abs().mean() < tol:
            break
    T = r.unsqueeze(-1) * c.unsqueeze(-2) * K
    return (K if T.isnan().any() else T), t + 1


@pytest.mark.parametrize("scale", [1.0, 2.0, 8.0])
def test_released_rule_with_padding(scale, monkeypatch):
    """As at the token level: a group of M * N problems for each image and class, with padding."""
    B, K, M, N, P, L = 2, 3, 2, 2, 13, 6
    g = torch.Generator().manual_seed(0)
    cost = scale * torch.rand(B, K, M, N, P, L, generator=g)
    lengths = torch.tensor([6, 2, 4])
    b = (torch.arange(L) < lengths[:, None]) / lengths[:, None]
    for k in range(K):
        cost[:, k, ..., lengths[k] :] = math.nan
    cost.requires_grad_()
    result = sinkhorn_released(cost, None, b[:, None, None], group_dims=2)
    for i in range(B):
        for k in range(K):
            n = lengths[k]
            inner = cost.detach()[i, k, ..., :n].reshape(M * N, P, n)
            expected, t = naive_released(
                inner, torch.full((M * N, P), 1 / P), b[k, :n].expand(M * N, n)
            )
            torch.testing.assert_close(result.plan[i, k, ..., :n].reshape(M * N, P, n), expected)
            assert (result.plan[i, k, ..., n:] == 0).all()
            assert (result.iterations[i, k] == t).all()
            distance = (expected * inner).sum((1, 2)).view(M, N)
            torch.testing.assert_close(result.distance[i, k].detach(), distance)
    result.distance.sum().backward()
    assert torch.equal(cost.grad, result.plan)
    monkeypatch.setattr(Sinkhorn, "chunk_size", lambda self, C: 4)
    chunked = sinkhorn_released(cost, None, b[:, None, None], group_dims=2)
    assert torch.equal(chunked.plan, result.plan)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_released_rule_over_everything(scale):
    """As at the prompt level and in PLOT: all problems are one group."""
    cost = scale * torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(12))
    expected, t = naive_released(cost, torch.full((20, 4), 0.25), torch.full((20, 4), 0.25))
    result = sinkhorn_released(cost.view(5, 4, 4, 4))
    torch.testing.assert_close(result.plan.view(20, 4, 4), expected)
    assert (result.iterations == t).all()


def test_released_rule_falls_back_to_the_kernel():
    cost = torch.full((2, 3, 4, 5), 0.5)
    cost[1, 2] = 1e4  # K underflows to 0 everywhere
    result = sinkhorn_released(cost, group_dims=1)
    expected, t = naive_released(cost[1], torch.full((3, 4), 0.25), torch.full((3, 5), 0.2))
    assert t == 100
    assert torch.equal(result.plan[1], expected)
    torch.testing.assert_close(result.plan[0], torch.full((3, 4, 5), 1 / 20))
    assert (result.iterations[1] == 100).all()
    assert (result.iterations[0] < 100).all()


def test_the_host_reads_no_values():
    """Runs on the meta device, which has no values: reading one on the host raises."""
    cost, b = torch.rand(2, 3, 5, 4, device="meta"), torch.rand(4, device="meta")
    assert sinkhorn_released(cost, b=b).plan.shape == cost.shape


@pytest.mark.parametrize("group_dims", [0, 1, 2])
def test_without_reads_the_result_is_the_same(group_dims, monkeypatch):
    """If the host reads no values, as on an accelerator, each group still stops separately."""
    cost = torch.rand(6, 4, 9, 5, generator=torch.Generator().manual_seed(1))
    expected = sinkhorn_released(cost, group_dims=group_dims)
    assert (expected.iterations < 100).all()
    monkeypatch.setattr(solver, "looks_are_free", lambda device: False)
    result = sinkhorn_released(cost, group_dims=group_dims)
    for name in ("plan", "distance", "iterations", "marginal_error"):
        assert torch.equal(getattr(result, name), getattr(expected, name))
