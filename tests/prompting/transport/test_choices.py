"""Choices of the solver before it computes, the solver of published codes, and traced loops."""

import math

import pytest
import torch

from trainers.prompting import sinkhorn, transport
from trainers.prompting.full_precision import gradients_of
from trainers.prompting.transport import scalings, solver
from trainers.prompting.transport.fused import fused
from trainers.prompting.transport.released import sinkhorn_released
from trainers.prompting.transport.solver import Sinkhorn
from trainers.prompting.transport.token_level import TokenWeights


class Kernels:
    """Stands in for the module of the fused kernel."""

    why = None

    def obstacle(self, solver, C, a, b, dtype):
        return self.why

    def solve(self, solver, C, a, b, dtype):
        return "fused", C.dtype, dtype


@pytest.mark.parametrize(
    ("change", "is_fused"),
    [
        ({}, True),
        ({"interpret": "0"}, False),
        ({"spread": None}, False),
        ({"n": 0}, False),
        ({"reg": 0.005, "spread": 20.0}, False),  # needs logarithms
        ({"why": "no compiler"}, False),
    ],
    ids=str,
)
def test_the_fused_kernel_is_asked_for_what_it_can_solve(monkeypatch, capsys, change, is_fused):
    now = {"interpret": "1", "spread": 2.0, "n": 3, "reg": 0.1, "why": None} | change
    kernels = Kernels()
    kernels.why = now["why"]
    monkeypatch.setattr(transport, "triton_kernels", kernels, raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", now["interpret"])
    C = torch.rand(now["n"], 5, 4).half()
    a, b = torch.full((now["n"], 1, 4), 1 / 4), torch.full((now["n"], 1, 5), 1 / 5)
    solver = Sinkhorn(now["reg"], spread=now["spread"])
    found = fused(solver, C, a, b, True)
    if is_fused:
        assert found == ("fused", torch.float32, torch.float32)
    else:
        assert torch.equal(found[0], solver.solve(C, a, b, True)[0])
    assert ("without the fused kernel: no compiler" in capsys.readouterr().out) == bool(now["why"])


def test_steps_of_small_problems_and_of_others():
    assert solver.plain_scalings(torch.rand(9, 8, 8)) is scalings.SmallScalings
    assert solver.plain_scalings(torch.rand(9, 5, 13)) is scalings.Scalings
    assert solver.plain_scalings(torch.rand(9, 8, 8, device="meta")) is scalings.Scalings


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("L", "P", "most"), [(8, 8, 1 << 18), (8, 50, 1 << 20), (999, 999, 0)])
def test_chunks_fit_into_the_cache_of_the_threads(L, P, most, dtype):
    C = torch.empty(1, L, P, dtype=dtype)
    n, bytes_ = Sinkhorn().chunk_size(C), L * P * max(4, dtype.itemsize)
    most *= torch.get_num_threads()
    assert n * bytes_ <= most < (n + 1) * bytes_ or (n == 1 and most < bytes_)
    elsewhere = Sinkhorn().chunk_size(C.to("meta"))
    assert elsewhere * bytes_ <= 1 << 28 < (elsewhere + 1) * bytes_


def test_rounded_weights_are_of_one_mass():
    """Weights of a narrow type sum to 1 up to its rounding; the columns take the rows' mass."""
    C = torch.rand(7, 5)
    a = torch.full((7,), 1 / 7).bfloat16()
    assert sinkhorn(C, a).plan.sum() == pytest.approx(float(a.float().sum()), rel=1e-6)
    for wrong in (a.float(), a.bfloat16() * 1.02):
        with pytest.raises(ValueError, match="do not sum to the same mass"):
            sinkhorn(C, wrong)
    with pytest.raises(ValueError, match="do not sum to the same mass"):
        sinkhorn(C, torch.full((7,), 1.0002 / 7))
    sinkhorn(C, torch.full((7,), 1.00005 / 7))
    three = sinkhorn(C, torch.full((7,), 3 / 7), torch.full((5,), 3 / 5)).plan
    assert three.sum() == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("of_images", [True, False])
def test_images_get_a_gradient_if_they_need_one_and_gradients_are_on(wanted, of_images):
    images = torch.rand(2, requires_grad=of_images)
    with torch.set_grad_enabled(wanted):
        with gradients_of(images):
            assert torch.is_grad_enabled() == (wanted and of_images)
        assert torch.is_grad_enabled() == wanted


def test_classes_are_grouped_by_their_tokens():
    mass = torch.tensor([[[1.0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]])
    groups = TokenWeights(mass, shared=2).groups
    assert [(length, classes.tolist()) for length, classes in groups] == [(2, [0, 1, 2]), (3, [3])]


@pytest.mark.parametrize("columns", [4, 30])
def test_logarithms_give_the_plans_of_plain_steps(columns):
    """A reg that needs logarithms only for other problems of the batch."""
    C = torch.rand(3, columns, 5, dtype=torch.float64)
    a, b = torch.full((3, 1, 5), 1 / 5), torch.full((3, 1, columns), 1 / columns)
    v = torch.rand(3, 1, columns).double() + 0.5
    plain, logs = (
        kind.of(-C / 0.1, a.double(), b.double())
        for kind in (scalings.Scalings, scalings.LogScalings)
    )
    u = plain.u(v)
    assert torch.allclose(logs.u(v.log()).exp(), u)
    w = plain.w(u)
    assert torch.allclose(logs.w(u.log()).exp(), w)
    assert torch.allclose(logs.v(w.log()).exp(), plain.v(w))
    assert torch.allclose(logs.error(v.log(), w.log()), plain.error(v, w))
    assert torch.allclose(logs.plan(u.log(), v.log()), plain.plan(u, v))


@pytest.mark.parametrize(
    ("spread", "device", "found"),
    [
        (2.0, "meta", (scalings.Scalings, torch.float32)),
        (10.0, "meta", (scalings.Scalings, torch.float64)),
        (100.0, "meta", (scalings.LogScalings, torch.float64)),
        (2.0, "cpu", (scalings.SmallScalings, torch.float32)),
        (None, "cpu", (scalings.SmallScalings, torch.float32)),
    ],
)
def test_the_first_arithmetic_that_is_safe_is_taken(spread, device, found):
    """With reg 0.1, float32 is safe up to 2.2 and float64 up to 17.7."""
    (choice,) = Sinkhorn(spread=spread).arithmetics(torch.rand(2, 3, 4).to(device))
    assert choice == (*found, slice(None))


def test_each_problem_gets_its_own_arithmetic():
    costs = torch.tensor([1.0, 2.2, 2.3, 17.7, 17.8, 1.5])[:, None, None] * torch.ones(6, 3, 4)
    for spread in (None, 20.0):  # which float32 does not hold, so that costs are read
        found = Sinkhorn(spread=spread).arithmetics(costs)
        assert [(*kind, index.tolist()) for *kind, index in found] == [
            (scalings.SmallScalings, torch.float32, [0, 1, 5]),
            (scalings.SmallScalings, torch.float64, [2, 3]),
            (scalings.LogScalings, torch.float64, [4]),
        ]


def test_convergence_is_tested_in_the_first_iterations_and_in_every_fourth():
    tests = [t for t in range(1, 19) if not Sinkhorn(max_iter=18).waits(t)]
    assert tests == [1, 2, 3, 4, 8, 12, 16, 18]
    found = sinkhorn(torch.rand(400, 6, 5, generator=torch.Generator().manual_seed(1)), reg=0.05)
    assert {1, 2, 3, 4, *range(8, 101, 4)}.issuperset(found.iterations.tolist())


def test_the_released_rule_stops_below_the_tolerance_and_not_at_it():
    for tol, iterations in ((0.0, 7), (1e-9, 2)):  # after the first iteration u stays
        found = sinkhorn_released(torch.zeros(2, 3, 4), tol=tol, max_iter=7)
        assert found.iterations.tolist() == [iterations] * 2


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
def test_rows_without_mass_do_not_count_in_the_released_rule(tol):
    C = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(2))
    alone = sinkhorn_released(C, tol=tol)
    padded = torch.cat([C, torch.zeros(2, 30, 4)], 1)
    a = torch.cat([torch.full((3,), 1 / 3), torch.zeros(30)])
    assert torch.equal(sinkhorn_released(padded, a, tol=tol).iterations, alone.iterations)


# ------------------------------------------------------------------ released


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
    error = (expected.sum(2) - 0.25).abs().sum(1)
    torch.testing.assert_close(result.marginal_error.view(20), error, atol=1e-6, rtol=1e-4)
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


# ------------------------------------------------------------------ traced by torch.export


def plain_loop(goes_on, update, state):
    """Do the same as `while_loop`, in Python: PyTorch's compiles first, which takes seconds."""
    while goes_on(*state):
        state = update(*state)
    return state


@pytest.fixture
def traced(monkeypatch):
    """A function that calls another as if it were traced, which must not read values."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(solver, "while_loop", plain_loop)
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            return function(*args, **kwargs)

    return call


def problems(padded: bool):
    """Return costs (2, 3, 5, 4) that need different numbers of iterations, and column weights."""
    cost = torch.rand(2, 3, 5, 4) * torch.tensor([0.1, 1, 2])[:, None, None]
    b = torch.full((3, 4), 0.25)
    if padded:
        b = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0.0]])
        b = b / b.sum(-1, keepdim=True)
    return cost, b


def assert_same(found, expected):
    assert torch.equal(found.iterations, expected.iterations)
    torch.testing.assert_close(found.plan, expected.plan, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.distance, expected.distance, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.marginal_error, expected.marginal_error, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("max_iter", [1, 7, 100])
@pytest.mark.parametrize("spread", [2.0, 4.0, None])
def test_each_problem_stops_where_it_does_in_python(traced, padded, max_iter, spread):
    cost, b = problems(padded)
    solve = Sinkhorn(0.1, 1e-4, max_iter, spread)
    expected = solve(cost, b=b)
    assert len(set(expected.iterations.flatten().tolist())) > (max_iter == 100)
    assert_same(traced(solve, cost, b=b), expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("group_dims", [0, 1, 2])
def test_groups_stop_where_they_do_in_python(traced, padded, group_dims):
    cost, b = problems(padded)
    expected = sinkhorn_released(cost, b=b, group_dims=group_dims)
    found = traced(sinkhorn_released, cost, b=b, group_dims=group_dims)
    assert_same(found, expected)
    assert (found.plan[..., 1, :, 2:] == 0).all() == padded


def test_a_small_regularisation_overflows_nothing(traced):
    cost, b = problems(False)
    solve = Sinkhorn(0.005, max_iter=5000, spread=4.0)
    found, expected = traced(solve, cost, b=b), solve(cost, b=b)
    assert (expected.marginal_error <= 1e-4).all()
    torch.testing.assert_close(found.plan, expected.plan, atol=1e-5, rtol=0)
