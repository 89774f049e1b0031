"""Tests of `measure solver`: both solve the same problems; differences are found."""

import json
import sys

import ot
import pytest
import torch

from benchmark.__main__ import main
from benchmark.measure import solver
from benchmark.measure.solver import ALIGN, Problems, Shape, shapes
from trainers.prompting.transport.solver import Sinkhorn

SMALL = ["measure", "solver", "--classes", "2", "--repeats", "1", "--threads", "1"]


@pytest.mark.slow
def test_the_table_shows_what_the_file_has(tmp_path, capsys):
    file = tmp_path / "solver.json"
    assert main([*SMALL, "--format", "markdown", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(file.read_text())
    assert (found["pot"], found["torch"]) == (ot.__version__, torch.__version__)
    assert [record["name"] for record in found["records"]] == [str(shape) for shape in shapes([2])]
    most = ALIGN.SINKHORN_MAX_ITER
    for record in found["records"]:
        name = record["name"]
        assert name in err.splitlines()
        (line,) = [x for x in out.splitlines() if x.startswith(f"| {name} ")]
        shown = [cell.strip() for cell in line.strip("|").split("|")]
        assert f"{1000 * record['seconds']['ours'][0]:.3g}" in shown
        assert f"{record['ratios'][0]:.3g}" in shown
        assert record["difference"] <= solver.SAME
        assert record["pot_iterations"] % 10 == 1 or record["pot_iterations"] == most
        assert 1 <= record["iterations"] <= record["most_iterations"] <= most
        gradient = {"ours_gradient", "pot_gradient"} <= set(record["seconds"])
        assert gradient == record["tokens"] == (len(record["ratios"]) == 2)


def wrong(change):
    """Return our solver with changed distances."""

    class Wrong(Sinkhorn):
        def __call__(self, *args):
            result = super().__call__(*args)
            return result._replace(distance=change(result.distance))

    return Wrong


@pytest.mark.parametrize(
    "change", [lambda d: d * 1.001, lambda d: d.roll(1, 0), lambda d: d * float("nan")]
)
def test_a_wrong_solver_is_found(monkeypatch, change, capsys):
    monkeypatch.setattr(solver, "Sinkhorn", wrong(change))
    monkeypatch.setattr(solver, "SHORT", 0)
    monkeypatch.setattr(solver, "shapes", lambda classes: shapes(classes)[-1:])
    assert main(SMALL) == 1
    out = capsys.readouterr().out
    assert f"- {shapes([2])[-1]}: the distances differ" in out


def test_the_problems_have_the_shapes_of_align():
    """Sizes, weights and memory layout are ALIGN's; peaked problems need many more iterations."""
    means = {}
    for shape in shapes([3]):
        problems = Problems(shape, "cpu", 1)
        P, L = (198, shape.lengths[1]) if shape.tokens else (4, 4)
        count = shape.images * 3 * (16 if shape.tokens else 1)
        assert problems.cost.shape == (count, P, L)
        assert problems.cost.dtype == torch.float32
        assert (problems.cost.mT if shape.tokens else problems.cost).is_contiguous()
        if shape.lengths[0] < L:
            lengths = (problems.b > 0).sum(-1)
            assert set(lengths.tolist()) == set(range(4, 13))
            torch.testing.assert_close(problems.b.sum(-1), torch.ones(count))
        else:
            assert problems.b is None
        means[shape] = problems.about()["iterations"]
    assert max(mean for shape, mean in means.items() if not shape.peaked) < 5
    assert min(mean for shape, mean in means.items() if shape.peaked) > 20
    assert {shape.tokens for shape in shapes([1000])} == {False}


@pytest.mark.parametrize("lengths", [(8, 8), (4, 12)])
def test_both_sides_do_the_same_work(lengths, monkeypatch):
    """Plans are equal, and gradients equal the plans."""
    problems = Problems(Shape(True, 4, 2, lengths, False), "cpu", 1)
    plans = problems.solve(problems.cost).plan, problems.pot().plan
    torch.testing.assert_close(*plans, rtol=0, atol=1e-5)
    assert problems.ours().shape == (len(problems.cost),)
    leaves = []
    detach = torch.Tensor.detach

    class Cost:
        def detach(self):
            leaves.append(detach(problems_cost))
            return leaves[-1]

    problems_cost, problems.cost = problems.cost, Cost()
    monkeypatch.setattr(problems, "pot", lambda: type("Solved", (), {"plan": plans[1]}))
    problems.ours_gradient()
    problems.pot_gradient()
    ours, pot = (leaf.grad for leaf in leaves)
    torch.testing.assert_close(ours, plans[0])
    torch.testing.assert_close(pot, plans[1])


def test_a_missing_pot_is_named(monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "ot", None)
    monkeypatch.delitem(sys.modules, "benchmark.measure.solver")
    assert "`pip install -r requirements.txt`" in refusal("solver")
