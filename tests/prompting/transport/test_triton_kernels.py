"""The fused kernels compared with PyTorch, in Triton's interpreter, and compiled without a GPU.

The interpreter has to be chosen before Triton is imported, so one test starts another pytest, which
runs the tests that need the interpreter.
"""

import functools
import inspect
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from paths import ROOT

from trainers.prompting import transport
from trainers.prompting.transport import token_level
from trainers.prompting.transport.problems import TokenProblems, TokenWeights
from trainers.prompting.transport.solver import sinkhorn
from trainers.prompting.transport.token_level import token_distances

triton = pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("trainers.prompting.transport.triton_kernels")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
HOW = (0.1, 1e-4, 100, 1 << 20)  # reg, tol, max_iter, chunk_bytes


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not compile", __file__]
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
@pytest.mark.parametrize(("name", "capability"), [("_solve", 80), ("_plans", 90)])
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_compiles_for_a_gpu(name, capability, tmp_path, monkeypatch):
    """Compiles to machine code without a GPU, for the sizes of ViT-B/16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    constants = {**kernels._blocks(199, 12), "PRECISION": "tf32x3"}
    kinds = dict.fromkeys(kernel.arg_names, "*fp32")
    kinds |= dict.fromkeys(("S", "P", "L", "D", "max_iter"), "i32")
    kinds |= {"reg": "fp32", "tol": "fp32", **dict.fromkeys(constants, "constexpr")}
    kinds = {argument: kinds[argument] for argument in kernel.arg_names}
    if "constexprs" in inspect.signature(ASTSource).parameters:
        source = ASTSource(kernel, kinds, constexprs=constants)
    else:  # before Triton 3.2
        kinds = {argument: kind for argument, kind in kinds.items() if kind != "constexpr"}
        source = ASTSource(kernel, kinds, constants)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": 8})
    assert compiled.metadata.shared <= 99 << 10  # the limit of a program on every such GPU
    assert compiled.asm["cubin"]


def features(B, M, N, K, P, L, D, lengths, dtype=torch.float32):
    """Return random normalised features, and uniform weights of each class's first tokens."""
    r = F.normalize(torch.randn(B, M, P, D), dim=-1).to(dtype).requires_grad_()
    s = F.normalize(torch.randn(N, K, L, D), dim=-1).to(dtype).requires_grad_()
    lengths = torch.tensor(lengths)[:, None]
    mass = ((torch.arange(L) < lengths) / lengths).expand(N, K, L)
    return r, s, mass


def check(r, s, mass, how, tolerance=1e-5):
    """Compare distances and gradients of kernels and PyTorch."""
    problems = TokenProblems(r, s, TokenWeights(mass), *how)
    own, expected = kernels.token_distances(problems), token_distances(problems, fused=False)
    weight = torch.randn(expected.shape)
    grads = [torch.autograd.grad((weight * d).sum(), (r, s)) for d in (own, expected)]
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    for x, y in zip(*grads, strict=True):
        assert y.abs().max() > 0.01
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


@interpreted
def test_ragged_problems_in_chunks():
    """The text sets need more than one program, and the plans several chunks along both axes."""
    r, s, mass = features(2, 2, 3, 3, 20, 5, 40, [5, 1, 3])
    check(r, s, mass, (*HOW[:3], 5 * 20 * 5 * 4))
    check(r, s, mass, (*HOW[:3], 20 * 20 * 5 * 4))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype):
    r, s, mass = features(1, 1, 2, 2, 17, 4, 24, [4, 2], dtype)
    check(r, s, mass, HOW, tolerance=torch.finfo(dtype).eps)


@interpreted
def test_weights_with_zeros_anywhere():
    r, s, _ = features(1, 1, 1, 2, 20, 5, 16, [5, 5])
    check(r, s, torch.tensor([[[0.0, 0.2, 0.0, 0.5, 0.3], [0.1, 0.9, 0.0, 0.0, 0.0]]]), HOW)


@interpreted
@pytest.mark.parametrize(("tol", "max_iter"), [(0.03, 100), (1e-5, 7)])
def test_stops_where_the_pytorch_path_stops(tol, max_iter):
    """Stops hard problems (few dimensions) early, when one iteration more changes the result."""
    r, s, mass = features(1, 1, 1, 6, 20, 4, 3, [4, 4, 2, 3, 4, 4])
    cost = 1 - torch.einsum("pd,kld->kpl", r[0, 0], s[0])
    stopped = sinkhorn(cost, b=mass[0], tol=tol, max_iter=max_iter)
    longer = sinkhorn(cost, b=mass[0], tol=tol, max_iter=max_iter + 1)
    assert len(stopped.iterations.unique()) > 1 or (longer.iterations > max_iter).all()
    check(r, s, mass, (0.1, tol, max_iter, 1 << 20))


@pytest.fixture
def problem(monkeypatch):
    """Token problems, with no kernels tried and no message printed before."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels, "_obstacles", {})
    monkeypatch.setattr(token_level, "say_once", functools.cache(print))
    r, s, mass = features(2, 2, 2, 2, 17, 4, 24, [4, 2])
    return TokenProblems(r, s, TokenWeights(mass), *HOW)


@interpreted
def test_distances_come_from_the_kernels(problem, monkeypatch, capsys):
    fused = token_distances(problem)
    assert kernels._obstacles and not any(kernels._obstacles.values())
    assert not capsys.readouterr().out
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(kernels, "token_distances", None)
    torch.testing.assert_close(fused, token_distances(problem), rtol=0, atol=1e-5)


def no_compiler(problems):
    raise RuntimeError("Failed to find C compiler.\nPlease specify")


def wrong(problems):
    return token_distances(problems, fused=False) * 1.001


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "triton"),
        (no_compiler, "RuntimeError: Failed to find C compiler.\n"),
        (wrong, "on this device they do not give the same numbers\n"),
        (0.05, "lambda is 0.05, and below 0.090"),
        (5000, "5000 x 4 costs do not fit into registers"),
    ],
)
def test_falls_back_with_one_line(problem, monkeypatch, capsys, change, reason):
    if change == "missing":
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, kernels.__name__)
        monkeypatch.delattr(transport, "triton_kernels")
    elif callable(change):
        monkeypatch.setattr(kernels, "token_distances", change)
    elif change < 1:
        problem = replace(problem, reg=change)
    else:
        problem = replace(problem, r=problem.r.repeat(1, 1, change, 1)[:, :, :change])
    found = [token_distances(problem) for _ in range(2)]
    said = capsys.readouterr().out
    assert said.startswith("Token-level transport runs in PyTorch, without fused kernels: ")
    assert reason in said
    assert said.count("\n") == 1
    monkeypatch.delenv("TRITON_INTERPRET")
    assert torch.equal(found[0], token_distances(problem))
