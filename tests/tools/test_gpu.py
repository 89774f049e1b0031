"""Tests of `python -m tools.gpu` and scripts/gpu_report.sh, on the CPU and on a pretend GPU."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from paths import ROOT
from pretend import build_guard

from benchmark.measure.waits import noted
from tools.gpu import __main__ as program
from tools.gpu import page, runs, solvers
from tools.gpu.store import measure
from trainers.prompting.errors import UserError

SITE = """
import ctypes, sys
ctypes.CDLL({guard!r}, ctypes.RTLD_GLOBAL)  # before PyTorch looks for a GPU
sys.path.insert(0, {folder!r})
import pretend
sys.path.pop(0)
pretend.install()
"""


def gpu(*words) -> int:
    return program.main([str(word) for word in words])


# ------------------------------------------------------------------------------- the file


def test_items_are_kept_and_the_rest_is_measured_later(tmp_path):
    path, calls = tmp_path / "piece.json", []
    items = {name: lambda name=name: calls.append(name) or {"of": name} for name in "abc"}
    first = dict(list(items.items())[:1])
    assert measure(path, "cpu", first, time.monotonic() + 60)
    assert not measure(path, "cpu", items, time.monotonic() - 1)  # no time for one more
    assert calls == ["a"]
    assert measure(path, "cpu", items, time.monotonic() + 60)
    assert calls == ["a", "b", "c"]
    assert json.loads(path.read_text())["records"] == {name: {"of": name} for name in "abc"}


def test_an_item_that_fails_loses_no_other_and_is_measured_again_if_asked(tmp_path):
    path, cases = tmp_path / "piece.json", [{"passed": False}, {"passed": True}]
    items = {
        "a": lambda: 1 / 0,
        "tests": lambda: {"cases": {"one": cases.pop(0)}},
        "c": lambda: {"x": 1},
    }
    ends = time.monotonic() + 60
    assert measure(path, "cpu", items, ends)
    first = {
        "a": {"problem": "ZeroDivisionError: division by zero"},
        "tests": {"cases": {"one": {"passed": False}}},
        "c": {"x": 1},
    }
    assert json.loads(path.read_text())["records"] == first
    items |= {"a": lambda: {"x": 0}, "c": lambda: {"x": 2}}
    assert measure(path, "cpu", items, ends)
    assert json.loads(path.read_text())["records"] == first
    assert measure(path, "cpu", items, ends, again=True)
    passed = {"cases": {"one": {"passed": True}}}
    records = json.loads(path.read_text())["records"]
    assert records == {"a": {"x": 0}, "tests": passed, "c": {"x": 1}}


def test_an_item_that_needs_another_call(tmp_path):
    path, answers = tmp_path / "piece.json", [None, {"x": 1}]
    items = {"a": lambda: answers.pop(0)}
    assert not measure(path, "cpu", items, time.monotonic() + 60)
    assert measure(path, "cpu", items, time.monotonic() + 60)
    assert json.loads(path.read_text())["records"] == {"a": {"x": 1}}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"machine": {"device": "x"}, "records": 1}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "solver.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is not a file of this report"):
        measure(path, "cpu", {}, time.monotonic() + 60)
    with pytest.raises(UserError, match="is not a file of this report"):
        page.files_in(tmp_path)


def test_numbers_of_two_machines_are_not_mixed(tmp_path):
    path = tmp_path / "solver.json"
    path.write_text('{"machine": {"device": "H100", "torch": "2.9"}, "records": {}}')
    with pytest.raises(UserError, match="was made with device H100, torch 2.9; here is "):
        measure(path, "cpu", {}, time.monotonic() + 60)


def test_a_page_is_of_one_machine(tmp_path):
    for piece, device in (("solver", "H100"), ("steps", "H200")):
        content = {"machine": {"device": device, "torch": "2.9"}, "records": {}}
        (tmp_path / f"{piece}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="of several machines: give each machine its own --output"):
        gpu("page", "--output", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["solver", "--device", "tpu"], "tpu"),
        (["solver", "--device", "cpu", "--minutes", "0"], "--minutes is 0.0"),
        (["steps", "--device", "cpu", "--public", "nowhere"], "no train.py and no trainers and"),
        (["page"], "has no file of a piece"),
    ],
)
def test_mistakes(tmp_path, words, told):
    with pytest.raises(UserError, match=told):
        gpu(*words, "--output", tmp_path)


@pytest.mark.parametrize("minutes", ["soon", "0", "1.5"])
def test_minutes_of_the_script(minutes):
    run = subprocess.run(
        ["bash", "scripts/gpu_report.sh"], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"MINUTES": minutes},
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == (
        f"gpu_report.sh: MINUTES is '{minutes}' but must be a whole number, 1 or more\n"
    )


# ------------------------------------------------------------------------------- the pieces


def test_all_solvers_give_the_same_distances():
    shape = solvers.shapes(small=True, more=False)[0]
    problems = solvers.Problems(shape, "cpu")
    every = max(1, problems.count // solvers.FEW)
    exact = solvers.exact(problems)
    for solve in (solvers.ours, solvers.pot, lambda p: solvers.loop(*p.costs())):
        assert (solve(problems)[::every] - exact).abs().max() < 1e-4
    with pytest.raises(solvers.Unmeasured, match="needs a GPU"):
        solvers.kernels(problems)


def test_gradients_of_all_solvers_are_those_of_constant_plans():
    shape = solvers.shapes(small=True, more=False)[0]
    found = []
    for solve in (solvers.ours, solvers.pot):
        problems = solvers.Problems(shape, "cpu")
        solve(problems).sum().backward()
        found.append(torch.cat([problems.r.grad.flatten(), problems.s.grad.flatten()]))
    assert torch.cosine_similarity(*found, dim=0) > 0.9999


def test_the_solvers_of_a_cpu(tmp_path, capsys):
    assert gpu("solver", "--small", "--device", "cpu", "--output", tmp_path) == 0
    records = json.loads((tmp_path / "solver.json").read_text())["records"]
    assert records["token, 2 x 3, fused kernels"] == {"problem": "needs a GPU"}
    assert records["token, 2 x 3, PyTorch path"]["problems"] == 2 * 3 * 4
    assert all(one["error"] < 1e-4 for one in records.values() if "error" in one)
    gpu("page", "--small", "--output", tmp_path)
    text = next(tmp_path.glob("*.md")).read_text()
    assert "**Not measured:** check, steps, resume, run." in text
    assert "| token, 2 x 3, POT" in text and "nan" not in text


def test_public_data_are_used_if_they_are_here(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CACHE", str(tmp_path))
    assert runs.dataset(tmp_path) == "emoji"
    (tmp_path / "eurosat").mkdir()
    assert runs.dataset(tmp_path) == "emoji"  # no weights
    (tmp_path / "ViT-B-16.pt").touch()
    assert runs.dataset(tmp_path) == "eurosat"


# ------------------------------------------------------------------------------- from end to end


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return an environment in which every Python program has a pretend GPU."""
    if torch.version.cuda or torch.version.hip:
        pytest.skip("the pretend GPU needs a PyTorch build without CUDA")
    folder = tmp_path_factory.mktemp("site")
    try:
        guard = build_guard(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the pretend GPU cannot be built: {error}")
    (folder / "sitecustomize.py").write_text(
        SITE.format(guard=str(guard), folder=str(ROOT / "tests" / "accelerator"))
    )
    paths = [str(folder), str(ROOT / "dassl-lite")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHON": sys.executable}


@pytest.mark.slow
@pytest.mark.processes
def test_the_report_on_a_pretend_gpu(tmp_path, environment):
    """A piece is killed first; the report continues from its file."""
    output = tmp_path / "gpu"
    command = [sys.executable, "-m", "tools.gpu", "solver", "--small", "--output", str(output)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while not (output / "solver.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads((output / "solver.json").read_text())["records"]
    assert before

    run = subprocess.run(
        ["bash", "scripts/gpu_report.sh", "--small"], cwd=ROOT, text=True, capture_output=True,
        env=environment | {"OUTPUT": str(output)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.endswith("The report is complete\n")
    files = page.files_in(output)
    assert list(files) == list(page.PIECES)
    assert before.items() <= files["solver"]["records"].items()
    assert all(one["passed"] for one in files["check"]["records"]["tests: fused"]["cases"].values())
    steps = files["steps"]["records"]
    waits = [len(one["training"]["waits"]) for one in steps.values()]
    assert waits == [0, 1, 1]  # fp32, amp, fp16: docs/performance_internals.md
    (resumed,) = files["resume"]["records"].values()
    assert resumed["killed"] and resumed["difference"] == 0
    text = (output / "a_pretend_gpu.md").read_text()
    assert "Not measured" not in text and "| CoOp" in text


def test_waits_are_noted_only_inside(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with noted() as waits:
        warnings.warn("does not yet detect all synchronizing operations", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert modes == ["warn", "default"]
    assert [wait.partition(":")[0] for wait in waits] == [str(Path("tests/tools/test_gpu.py"))]
