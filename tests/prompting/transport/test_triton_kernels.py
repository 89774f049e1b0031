"""The fused kernel compared with PyTorch, in Triton's interpreter, and compiled without a GPU.

The interpreter has to be chosen before Triton is imported, so one test starts another pytest, which
runs the tests that need the interpreter.
"""

import functools
import inspect
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from paths import ROOT

from trainers.prompting import transport
from trainers.prompting.transport import fused, solver
from trainers.prompting.transport.solver import Sinkhorn
from trainers.prompting.transport.token_level import TokenProblems, TokenWeights, token_distances

triton = pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("trainers.prompting.transport.triton_kernels")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
HOW = (0.1, 1e-4, 100, 1 << 20)  # reg, tol, max_iter, chunk_bytes
SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}  # bytes of a program, by capability
REGISTERS = 128  # of a thread, so that a multiprocessor holds 16 warps
TOKENS = (51, 198, 258, 578)  # image tokens of ViT-B/32, B/16, L/14 and L/14@336
SHAPES = [*((P, 8, torch.float32) for P in TOKENS), (4, 4, torch.float64)]


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.slow
def test_in_the_interpreter():
    elsewhere = "not compile and not falls and not logarithms"  # these need no interpreter
    command = [sys.executable, "-m", "pytest", "-q", "-k", elsewhere, __file__]
    run = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    assert "passed" in run.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler")
@pytest.mark.parametrize("capability", slow_but(SHARED, 80))
@pytest.mark.parametrize("shape", slow_but(SHAPES, SHAPES[1], *SHAPES[-2:]), ids=str)
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_compiles_for_a_gpu_within_its_limits(shape, capability, tmp_path, monkeypatch):
    """Compiles to machine code without a GPU; prints what it needs (`pytest -s`)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    P, L, dtype = shape
    kernel, constants = kernels._solve, kernels.options(P, L, 0.1, dtype)
    warps = constants.pop("num_warps")
    kinds = dict.fromkeys(kernel.arg_names, "i32")
    tensors = ("cost", "a", "b", "plan", "distance", "error")
    kinds |= dict.fromkeys(tensors, "*fp32") | {"iterations": "*i64", "tol": "fp32"}
    kinds |= dict.fromkeys(constants, "constexpr")
    if "constexprs" in inspect.signature(ASTSource).parameters:
        source = ASTSource(kernel, kinds, constexprs=constants)
    else:  # before Triton 3.2
        kinds = {argument: kind for argument, kind in kinds.items() if kind != "constexpr"}
        source = ASTSource(kernel, kinds, constants)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps})
    (tmp_path / "code").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.check_output(
        [tool, "--dump-resource-usage", tmp_path / "code"], text=True, cwd=tmp_path
    )
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    shared = compiled.metadata.shared
    print(f"sm_{capability}, {P} x {L}: {warps} warps, {found}, {shared} bytes of shared memory")
    assert 0 < found["REG"] <= REGISTERS
    assert found["STACK"] == found["LOCAL"] == 0  # where registers are spilled
    assert shared <= SHARED[capability]


def on_a_gpu(function, monkeypatch):
    """Return the result of a function where the host may not look, and if the kernel made it."""
    launched = []

    def solve(*args, solve=kernels.solve):
        found = solve(*args)
        launched.append(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(solver, "looks_are_free", lambda device: False)
        patch.setattr(kernels, "solve", solve)
        patch.setattr(kernels, "_obstacles", {})
        return function(), bool(launched) and not any(kernels._obstacles.values())


def features(B, M, N, K, P, L, D, lengths, dtype=torch.float32):
    """Return random normalised features, and uniform weights of each class's first tokens."""
    r = F.normalize(torch.randn(B, M, P, D), dim=-1).to(dtype).requires_grad_()
    s = F.normalize(torch.randn(N, K, L, D), dim=-1).to(dtype).requires_grad_()
    lengths = torch.tensor(lengths)[:, None]
    mass = ((torch.arange(L) < lengths) / lengths).expand(N, K, L)
    return r, s, mass


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distances_of_tokens_and_their_gradients(dtype, monkeypatch):
    """Lengths are ragged, tokens shared, and the images and classes in several pieces."""
    r, s, mass = features(2, 1, 2, 3, 20, 5, 40, [5, 2, 3], dtype)
    problems = TokenProblems(r, s, TokenWeights(mass, 1), *HOW[:3], 2 * 2 * 20 * 3 * 4)
    expected = token_distances(problems)
    own, launched = on_a_gpu(lambda: token_distances(problems), monkeypatch)
    assert launched and own.dtype == torch.float32
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    weight = torch.randn(expected.shape)
    grads = [torch.autograd.grad((weight * d).sum(), (r, s)) for d in (own, expected)]
    for x, y in zip(*grads, strict=True):
        assert y.abs().max() > 0.01
        torch.testing.assert_close(x, y, rtol=0, atol=max(1e-5, torch.finfo(dtype).eps))


def check(how, cost, monkeypatch, a=None, b=None):
    """Compare all fields of a result; return it."""
    expected = how(cost, a, b)
    own, launched = on_a_gpu(lambda: how(cost, a, b), monkeypatch)
    assert launched
    assert torch.equal(own.iterations, expected.iterations)
    for x, y in zip(own, expected, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, equal_nan=True)
    return own


@interpreted
@pytest.mark.parametrize(
    ("shape", "spread"), [((4, 4), 2.0), ((4, 4), 4.0), ((8, 8), 4.0), ((1, 4), 4.0), ((7, 3), 2.0)]
)
def test_plans_of_prompts(shape, spread, monkeypatch):
    """In float32 or, as in ALIGN by default, in float64; costs in either layout."""
    cost = spread * torch.rand(3, *shape) * torch.tensor([0.1, 0.4, 0.7])[:, None, None]
    if spread == 2:
        cost = cost.mT.contiguous().mT
    found = check(Sinkhorn(spread=spread), cost, monkeypatch)
    assert 1 in shape or len(found.iterations.unique()) > 1


@interpreted
@pytest.mark.parametrize(("tol", "max_iter"), [(0.03, 100), (1e-5, 7)])
def test_stops_where_the_pytorch_path_stops(tol, max_iter, monkeypatch):
    """Stops hard problems early, when one iteration more changes the result."""
    cost = 2 * torch.rand(6, 20, 4) ** torch.tensor([0.5, 1, 2, 4, 8, 16])[:, None, None]
    found = check(Sinkhorn(tol=tol, max_iter=max_iter, spread=2.0), cost, monkeypatch)
    assert len(found.iterations.unique()) > 1 or (found.iterations == max_iter).all()
    assert (found.iterations > 1).any()


@interpreted
def test_weights_with_zeros_and_costs_without_numbers(monkeypatch):
    """Costs without mass may be nan; with mass, they make their own problem nan."""
    a = torch.tensor([[0.5, 0, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0]])
    b = torch.tensor([[0, 0.2, 0, 0.5, 0.3], [0.1, 0.9, 0, 0, 0], [0, 0, 0, 0, 0]])
    cost = torch.rand(3, 4, 5)
    cost[0, 1], cost[1, :, 2], cost[0, 0, 1] = torch.nan, torch.nan, torch.inf
    assert check(Sinkhorn(spread=2.0), cost, monkeypatch, a, b).plan.isfinite().all()
    cost[1, 0, 0] = torch.nan
    assert check(Sinkhorn(spread=2.0), cost, monkeypatch, a, b).distance[1].isnan()


@pytest.mark.parametrize(("reg", "spread"), [(0.005, 4.0), (0.1, None)])
def test_what_needs_logarithms_or_a_look_is_solved_in_pytorch(reg, spread, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    cost, how = torch.rand(5, 4, 3), Sinkhorn(reg, spread=spread)
    own, launched = on_a_gpu(lambda: how(cost), monkeypatch)
    assert not launched
    torch.testing.assert_close(own.plan, how(cost).plan)


def no_compiler(*args):
    raise RuntimeError("Failed to find C compiler.\nPlease specify")


def wrong(how, C, a, b, dtype):
    plan, *others = how.solve(C, a, b, uniform=False)
    return 1.02 * plan, *others


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "triton"),
        (no_compiler, "RuntimeError: Failed to find C compiler.\n"),
        (wrong, "on this device it does not give the same numbers\n"),
        (5000, "5000 x 4 costs do not fit into registers"),
    ],
)
def test_falls_back_with_one_line(monkeypatch, capsys, change, reason):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels, "_obstacles", {})
    monkeypatch.setattr(fused, "say_once", functools.cache(print))
    r, s, mass = features(2, 2, 2, 2, 17, 4, 24, [4, 4])
    problems = TokenProblems(r, s, TokenWeights(mass), *HOW)
    if change == "missing":
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, kernels.__name__)
        monkeypatch.delattr(transport, "triton_kernels")
    elif callable(change):
        monkeypatch.setattr(kernels, "solve", change)
    else:
        problems = replace(problems, r=r.repeat(1, 1, change, 1)[:, :, :change])
    with monkeypatch.context() as patch:
        patch.setattr(solver, "looks_are_free", lambda device: False)
        found = [token_distances(problems) for _ in range(2)]
    said = capsys.readouterr().out
    assert said.startswith("Transport runs in PyTorch, without the fused kernel: ")
    assert reason in said
    assert said.count("\n") == 1
    expected = token_distances(problems)
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
