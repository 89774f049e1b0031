"""The solvers as one loop of tensors, as programs have them, beside those that Python runs."""

import pytest
import torch

from trainers.prompting import UserError
from trainers.prompting.transport import loops
from trainers.prompting.transport.released import sinkhorn_released
from trainers.prompting.transport.solver import Sinkhorn


def plain_loop(goes_on, update, state):
    """`while_loop` in Python: PyTorch's own compiles first, which takes seconds."""
    while goes_on(*state):
        state = update(*state)
    return state


@pytest.fixture(autouse=True)
def in_python(monkeypatch):
    monkeypatch.setattr(loops, "while_loop", plain_loop)


def problems(padded: bool):
    """Costs (2, 3, 5, 4) that take different numbers of iterations, and weights of columns."""
    cost = torch.rand(2, 3, 5, 4) * torch.tensor([0.1, 1, 2])[:, None, None]
    b = torch.full((3, 4), 0.25)
    if padded:
        b = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0.0]])
        b = b / b.sum(-1, keepdim=True)
    return cost, b


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("max_iter", [1, 7, 100])
@pytest.mark.parametrize("spread", [2.0, 4.0])
def test_each_problem_stops_where_the_solver_stops_it(padded, max_iter, spread):
    cost, b = problems(padded)
    expected = Sinkhorn(0.1, 1e-4, max_iter)(cost, b=b)
    found = loops.sinkhorn_loop(cost, None, b, 0.1, 1e-4, max_iter, spread)
    assert len(set(expected.iterations.flatten().tolist())) > (max_iter == 100)
    assert found.iterations.max() == expected.iterations.max()
    torch.testing.assert_close(found.plan, expected.plan, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.distance, expected.distance, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.marginal_error, expected.marginal_error, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("group_dims", [0, 1, 2])
def test_groups_stop_where_the_released_rule_stops_them(padded, group_dims):
    cost, b = problems(padded)
    expected = sinkhorn_released(cost, b=b, group_dims=group_dims)
    found = loops.released_loop(cost, None, b, 0.1, 1e-2, 100, group_dims)
    torch.testing.assert_close(found.plan, expected.plan, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.distance, expected.distance, atol=1e-6, rtol=1e-5)
    assert (found.plan[..., 1, :, 2:] == 0).all() == padded


def test_a_regularisation_that_overflows_is_refused():
    cost, b = problems(False)
    with pytest.raises(UserError, match=r"LAMBDA is 0.01: .* needs at least 0.023"):
        loops.sinkhorn_loop(cost, None, b, 0.01, 1e-4, 100, spread=4.0)
