"""The solver's loop as traced by `torch.export`, compared with the loop in Python."""

import pytest
import torch

from trainers.prompting.transport import solver
from trainers.prompting.transport.released import sinkhorn_released
from trainers.prompting.transport.solver import Sinkhorn


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
