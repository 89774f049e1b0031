"""The batched Sinkhorn solver: compared with POT, independent problems, extreme inputs.

The file is long because the extreme cases share the problems and the comparison with POT.
"""

import math

import ot
import pytest
import torch
from cases import slow_but
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.prompting import sinkhorn
from trainers.prompting.transport import solver
from trainers.prompting.transport.released import sinkhorn_released
from trainers.prompting.transport.solver import Sinkhorn

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def random_problems(seed, n, P, L, zeros=False, scale=2.0, dtype=torch.float32):
    """Return costs in [0, scale] and weights; with `zeros` some weights are 0."""
    g = torch.Generator().manual_seed(seed)
    cost = scale * torch.rand(n, P, L, generator=g, dtype=torch.float64)
    weights = []
    for size in (P, L):
        w = 0.05 + torch.rand(n, size, generator=g, dtype=torch.float64)
        if zeros:
            kept = torch.rand(n, size, generator=g) > 0.3
            kept[:, int(torch.randint(size, (), generator=g))] = True
            w = w * kept
        weights.append((w / w.sum(-1, keepdim=True)).to(dtype))
    return cost.to(dtype), *weights


def pot(cost, a, b, reg):
    """Return POT's plan of one problem, in float64 without zero weights, and if it converged."""
    cost, a, b = cost.double(), a.double(), b.double()
    rows, columns = a > 0, b > 0
    plan = torch.zeros_like(cost)
    inner, log = ot.bregman.sinkhorn_log(
        a[rows] / a.sum(),
        b[columns] / b.sum(),
        cost[rows][:, columns],
        reg,
        numItermax=3000,
        stopThr=1e-11,
        warn=False,
        log=True,
    )
    plan[torch.outer(rows, columns)] = inner.flatten()
    return plan, log["err"][-1] <= 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reg", slow_but([0.005, 0.02, 0.1, 1.0], 0.02, 1.0))
def test_equals_pot(reg, dtype):
    shapes = [(1, 1), (1, 20), (200, 1), (2, 2), (4, 4), (7, 3), (50, 8), (200, 20)]
    compared = 0
    for i, (P, L) in enumerate(shapes):
        cost, a, b = (x[0] for x in random_problems(i, 1, P, L, zeros=i % 2, dtype=dtype))
        if dtype in (torch.float16, torch.bfloat16):
            a, b = None, None  # rounded weights would have different masses
        ones = (torch.full((n,), 1 / n, dtype=torch.float64) for n in (P, L))
        a_, b_ = (w if given is None else given for given, w in zip((a, b), ones, strict=True))
        expected, converged = pot(cost, a_, b_, reg)
        if not converged:  # with a small reg POT can need tens of thousands of iterations
            continue
        compared += 1
        tol = 1e-9 if dtype == torch.float64 else 1e-6
        result = sinkhorn(cost, a, b, reg=reg, tol=tol, max_iter=5000)
        assert result.plan.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(result.plan.double(), expected, rtol=0, atol=1e-5)
        distance = (expected * cost.double()).sum()
        torch.testing.assert_close(result.distance.double(), distance, rtol=0, atol=1e-5)
    assert compared >= 5


@quick
@given(
    seed=seeds,
    n=st.integers(1, 6),
    P=st.integers(1, 40),
    L=st.integers(1, 20),
    reg=st.sampled_from([0.005, 0.02, 0.05, 0.1, 0.5, 1.0]),
    zeros=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_marginals_hold(seed, n, P, L, reg, zeros, dtype):
    cost, a, b = random_problems(seed, n, P, L, zeros)
    result = sinkhorn(cost.to(dtype), a, b, reg=reg)
    rows, columns = result.plan.sum(-1), result.plan.sum(-2)
    torch.testing.assert_close(rows, a.to(rows.dtype), rtol=1e-5, atol=1e-7)
    error = (columns - b).abs().sum(-1)
    torch.testing.assert_close(error, result.marginal_error, rtol=0, atol=2e-6)
    assert ((result.marginal_error <= 1e-4) | (result.iterations == 100)).all()
    assert (result.iterations >= 1).all()
    assert (result.plan >= 0).all()
    assert (result.plan[(a[:, :, None] * b[:, None]) == 0] == 0).all()


@settings(quick, max_examples=12)
@given(seed=seeds, P=st.integers(1, 60), L=st.integers(1, 12), reg=st.sampled_from([0.02, 0.1]))
def test_a_problem_does_not_depend_on_its_neighbours(seed, P, L, reg):
    easy, a, b = random_problems(seed, 5, P, L)
    hard, *_ = random_problems(seed + 1, 3, P, L, scale=20.0)
    very_hard, *_ = random_problems(seed + 2, 2, P, L, scale=1e4)
    cost = torch.cat([easy * 0.1, hard, easy, very_hard])
    a, b = a[:1], b[:1]
    together = sinkhorn(cost, a, b, reg=reg)
    order = torch.randperm(len(cost), generator=torch.Generator().manual_seed(seed))
    permuted = sinkhorn(cost[order], a, b, reg=reg)
    for i in range(len(cost)):
        alone = sinkhorn(cost[i], a[0], b[0], reg=reg)
        j = int((order == i).nonzero())
        for other, k in ((together, i), (permuted, j)):
            assert torch.equal(alone.plan, other.plan[k])
            assert torch.equal(alone.distance, other.distance[k])
            assert torch.equal(alone.iterations, other.iterations[k])
            assert torch.equal(alone.marginal_error, other.marginal_error[k])


class InChunks(Sinkhorn):
    """Solves seven problems at a time."""

    def chunk_size(self, C):
        return 7

    def solve(self, C, *weights):
        assert len(C) <= 7
        return super().solve(C, *weights)


def test_chunks_change_nothing():
    cost, a, b = random_problems(0, 60, 30, 6, zeros=True, scale=4.0)
    whole, chunked = sinkhorn(cost, a, b), InChunks()(cost, a, b)
    assert torch.equal(whole.iterations, chunked.iterations)
    torch.testing.assert_close(whole.plan, chunked.plan, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(whole.distance, chunked.distance, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("junk", [0.0, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("reg", [0.005, 0.1])
def test_padding_changes_nothing(junk, reg):
    """Problems of different sizes, padded to one shape, have the same results as unpadded."""
    problems = [random_problems(i, 1, P, L) for i, (P, L) in enumerate([(9, 1), (4, 7), (12, 3)])]
    cost = torch.full((3, 12, 7), junk)
    a, b = torch.zeros(3, 12), torch.zeros(3, 7)
    for i, (c, x, y) in enumerate(problems):
        cost[i, : x.shape[1], : y.shape[1]] = c[0]
        a[i, : x.shape[1]], b[i, : y.shape[1]] = x[0], y[0]
    cost.requires_grad_()
    result = sinkhorn(cost, a, b, reg=reg)
    result.distance.sum().backward()
    for i, (c, x, y) in enumerate(problems):
        alone = sinkhorn(c[0], x[0], y[0], reg=reg)
        inner = slice(x.shape[1]), slice(y.shape[1])
        torch.testing.assert_close(result.plan[i][inner], alone.plan, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(result.distance[i], alone.distance, rtol=1e-5, atol=1e-7)
        assert result.iterations[i] == alone.iterations
        outer = torch.ones(12, 7, dtype=torch.bool)
        outer[inner] = False
        assert (result.plan[i][outer] == 0).all()
        assert (cost.grad[i][outer] == 0).all()


@quick
@given(
    seed=seeds,
    P=st.sampled_from([1, 2, 17]),
    L=st.sampled_from([1, 2, 5]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 50.0, 1e4, 6e4]),
    shift=st.sampled_from([0.0, 1e4, -1e4]),
    reg=st.sampled_from([0.005, 0.1, 10.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_extreme_costs_give_numbers(seed, P, L, scale, shift, reg, dtype):
    cost, a, b = random_problems(seed, 3, P, L, scale=scale)
    cost[1, 0, 0] += 5 * scale if dtype != torch.float16 else 0
    cost = (cost + shift).clamp(-6e4, 6e4).to(dtype)
    result = sinkhorn(cost, a, b, reg=reg)
    assert result.plan.isfinite().all()
    assert result.distance.isfinite().all()
    torch.testing.assert_close(result.plan.sum(-1), a.to(result.plan.dtype), rtol=1e-5, atol=1e-7)


def test_a_constant_added_to_the_costs_changes_nothing_but_the_distance():
    cost, a, b = random_problems(0, 4, 30, 6, dtype=torch.float64)
    cost = (cost * 256).round() / 256  # so that the sum is exact in float32
    near, far = sinkhorn(cost.float(), a, b), sinkhorn(cost.float() + 1024, a, b)
    torch.testing.assert_close(near.plan, far.plan, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(near.distance + 1024, far.distance, rtol=1e-6, atol=0)


def test_known_solutions():
    for cost in (torch.zeros(3, 5, 4), torch.full((3, 5, 4), 7.0)):
        result = sinkhorn(cost)
        torch.testing.assert_close(result.plan, torch.full((3, 5, 4), 1 / 20))
        assert (result.iterations == 1).all()
    one = sinkhorn(torch.tensor([[3.0]]))
    assert one.plan.item() == 1
    assert one.distance.item() == 3
    for solve in (sinkhorn, sinkhorn_released):
        assert solve(torch.rand(0, 3, 2)).plan.shape == (0, 3, 2)
    nothing = sinkhorn(torch.rand(2, 3), torch.zeros(2), torch.zeros(3))
    assert nothing.distance == 0
    assert (nothing.plan == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_the_plan(dtype):
    cost, a, b = random_problems(3, 6, 20, 5, zeros=True, dtype=torch.float64)
    cost = cost.to(dtype).requires_grad_()
    a, b = a.requires_grad_(), b.requires_grad_()
    result = sinkhorn(cost, a, b)
    weight = torch.arange(1, 7, dtype=result.distance.dtype)
    (weight * result.distance).sum().backward()
    assert cost.grad.dtype == dtype
    assert torch.equal(cost.grad, (weight[:, None, None] * result.plan).to(dtype))
    assert a.grad is None
    assert b.grad is None
    assert not result.plan.requires_grad
    expected = (result.plan * cost.detach().to(result.plan.dtype)).sum((1, 2))
    torch.testing.assert_close(result.distance.detach(), expected)


def test_a_gradient_changes_no_number():
    cost, a, b = random_problems(5, 60, 20, 5, zeros=True, scale=6.0)
    with torch.no_grad():
        without = InChunks()(cost.requires_grad_(), a, b)
    assert not without.distance.requires_grad
    result = InChunks()(cost, a, b)
    assert result.distance.requires_grad
    for name in ("plan", "distance", "iterations", "marginal_error"):
        assert torch.equal(getattr(without, name), getattr(result, name))


def test_batches_broadcasting_and_layout():
    """Any batch shape, weights that differ along some of its axes, costs in any layout."""
    cost, *_ = random_problems(6, 24, 9, 5)
    cost = cost.view(2, 3, 4, 9, 5)
    lengths = torch.tensor([5, 2, 4])
    b = (torch.arange(5) < lengths[:, None]) / lengths[:, None]
    a = random_problems(7, 2, 9, 1)[1].view(2, 1, 1, 9)
    result = sinkhorn(cost, a, b[:, None])
    assert result.plan.shape == (2, 3, 4, 9, 5)
    for x in (result.distance, result.iterations, result.marginal_error):
        assert x.shape == (2, 3, 4)
    for i in range(2):
        for k in range(3):
            n = lengths[k]
            alone = sinkhorn(cost[i, k, 3, :, :n], a[i, 0, 0], b[k, :n])
            torch.testing.assert_close(result.plan[i, k, 3, :, :n], alone.plan)
    columns_first = cost.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(sinkhorn(columns_first, a, b[:, None]).plan, result.plan)
    swapped = sinkhorn(cost.permute(2, 0, 1, 3, 4), a[:, 0], b)
    assert torch.equal(swapped.plan, result.plan.permute(2, 0, 1, 3, 4))


def test_without_reads_the_result_is_the_same(monkeypatch):
    """If the host reads no values, as on an accelerator, each problem still stops separately."""
    cost, a, b = random_problems(10, 40, 30, 5, scale=4.0)
    expected = sinkhorn(cost, a, b)
    monkeypatch.setattr(solver, "looks_are_free", lambda device: False)
    result = sinkhorn(cost, a, b)
    assert expected.iterations.unique().numel() > 3
    for name in ("plan", "distance", "iterations", "marginal_error"):
        assert torch.equal(getattr(result, name), getattr(expected, name))


def test_one_iteration_at_least_and_no_more_than_allowed():
    cost, a, b = random_problems(11, 5, 10, 4)
    for max_iter in (1, 2, 7):
        result = sinkhorn(cost, a, b, tol=0, max_iter=max_iter)
        assert (result.iterations <= max_iter).all()
        torch.testing.assert_close(result.plan.sum(-1), a, rtol=1e-5, atol=1e-7)
    errors = [sinkhorn(cost, a, b, tol=0, max_iter=n).marginal_error for n in (1, 4, 16)]
    assert (errors[0] > errors[1]).all()
    assert (errors[1] > errors[2]).all()


C = torch.rand(2, 3, 4)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"reg": 0.0}, "reg is 0.0"),
        ({"reg": math.nan}, "reg is nan"),
        ({"reg": math.inf}, "reg is inf and max_iter 100: they must be positive and finite"),
        ({"max_iter": 0}, "max_iter 0"),
        ({"a": torch.full((1,), 1.0)}, r"a has shape \(1,\), but must end in 3"),
        ({"b": torch.full((3,), 1 / 3)}, r"b has shape \(3,\), but must end in 4"),
        ({"a": torch.tensor([1.5, -0.5, 0.0])}, "a has weights that are negative"),
        ({"b": torch.tensor([math.nan, 1, 0, 0])}, "b has weights that are negative"),
        ({"a": torch.ones(3), "b": torch.ones(4)}, "same mass"),
    ],
)
@pytest.mark.parametrize("solve", [sinkhorn, sinkhorn_released])
def test_bad_input_is_one_sentence(solve, kwargs, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        solve(**{"cost": C, **kwargs})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("junk", [math.nan, -math.inf])
@pytest.mark.parametrize("reg", [0.005, 0.1])
@pytest.mark.parametrize("n", [1, 3000])
def test_a_nan_cost_is_refused(junk, reg, n):
    cost = torch.rand(n, 3, 4)
    cost[n // 2, 1, 2] = junk
    with pytest.raises(ValueError, match="nan or -inf where there is mass") as error:
        sinkhorn(cost, reg=reg)
    assert "\n" not in str(error.value)
    b = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert sinkhorn(cost, b=b, reg=reg).distance.isfinite().all()


def test_a_forbidden_pair_gets_no_mass():
    cost = torch.rand(5, 3, 4)
    cost[2, 1, 2] = math.inf
    plan = sinkhorn(cost).plan
    assert plan.isfinite().all() and plan[2, 1, 2] == 0
    torch.testing.assert_close(plan.sum(-1), torch.full((5, 3), 1 / 3))


def test_a_known_spread_changes_nothing_and_lets_nan_through():
    cost, _, b = random_problems(13, 20, 9, 5)
    looked, known = Sinkhorn()(cost, b=b), Sinkhorn(spread=2.0)(cost, b=b)
    assert torch.equal(looked.plan, known.plan)
    far, close = 30 * cost, Sinkhorn(spread=60.0)  # too large for float32, so costs are read
    assert torch.equal(sinkhorn(far).plan, close(far).plan)
    cost[3, 0, 0] = math.nan
    found = Sinkhorn(spread=2.0)(cost, b=b).distance
    assert found.isnan().nonzero().tolist() == [[3]]


def test_the_host_reads_costs_only_if_the_spread_is_unknown():
    """Runs on the meta device, which has no values: reading one on the host raises."""
    cost, b = torch.rand(6, 5, 4, device="meta"), torch.rand(6, 4, device="meta")
    for reg in (0.1, 0.02, 0.005):  # one for each arithmetic
        solver = Sinkhorn(reg, spread=2.0, max_iter=3)
        assert solver(cost).plan.shape == cost.shape
        assert solver(cost, b=b).plan.shape == cost.shape
    with pytest.raises(RuntimeError, match="meta"):  # is float32 enough?
        Sinkhorn()(cost)
