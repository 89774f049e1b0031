"""Runs start in processes that have imported what they need, and have computed nothing."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver

import pytest
import torch
from checkout import wait_for
from paths import ROOT

from benchmark.launch.local import train
from benchmark.launch.start import Process

pytestmark = pytest.mark.processes

# A script computes in threads, and calls a protocol without asking for `__main__`.
COMPUTED = """
import sys
import torch
from benchmark.__main__ import main

torch.set_num_threads(2)
for _ in range(3):
    torch.randn(999, 999) @ torch.randn(999, 999)
    torch.randn(999, 999).exp()
sys.exit(main(sys.argv[1:]))
"""

# Says what the process has and has not.
PROBE = """
import os, sys
print(os.readlink("/proc/self/fd/0"), os.getcwd(), os.environ["GIVEN"], os.environ["LATE"])
print(sys.stdout.errors, os.getsid(0) == os.getpid(), "torch" in sys.modules, "\\udcff")
sys.exit("in one sentence")
"""


def finish(process: Process) -> int | None:
    """Wait for the end of a process; return its exit code."""
    wait_for(lambda: process.poll() is not None)
    return process.poll()


@pytest.fixture
def console(tmp_path):
    return tmp_path / "console.txt"


@pytest.mark.slow
def test_a_protocol_in_a_process_that_has_computed_in_threads(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(COMPUTED)
    words = "few_shot emoji_animals --trainers ZeroshotCLIP --seeds 1 --shots 1 --output out"
    done = subprocess.run(
        [sys.executable, script, *words.split()], capture_output=True, text=True, timeout=300,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 runs, 1 to do" in done.stderr and "[1/1]" in done.stderr


def test_what_a_process_has(monkeypatch, tmp_path, console):
    if finish(Process(console, {}, exec, "import sys; sys.exit('torch' not in sys.modules)")):
        forkserver._forkserver._stop()  # that of an earlier test may lack PyTorch
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATE", "set after the fork server has started")
    process = Process(console, {"GIVEN": "a variable"}, exec, PROBE)
    assert finish(process) == 1
    first = f"/dev/null {tmp_path} a variable set after the fork server has started"
    second = "backslashreplace True True \\udcff"
    assert console.read_text().splitlines() == [first, second, "in one sentence"]


def test_signals_and_exit_codes(console):
    hears = Process(console, {}, exec, "import time; print('ready'); time.sleep(60)")
    wait_for(lambda: console.exists() and console.read_bytes() == b"ready\n")
    assert hears.poll() is None
    os.killpg(hears.pid, signal.SIGTERM)
    assert finish(hears) == -signal.SIGTERM
    assert finish(Process(console, {}, exec, "raise SystemExit(3)")) == 3
    assert finish(Process(console, {}, exec, "")) == 0


# What a process prints, and what its console then has.
PRINTED = {
    "print('a', 1, end=''); print('\\n\\nb'); print('c', end='')": "a 1\n\nb\nc",
    "os.write(1, b'\\xff\\n'); print('\\udcff', file=sys.stderr)": "\ufffd\n\\udcff\n",
    "print('a', file=sys.stderr); print('b'); os.system('echo c >&2')": "a\nb\nc\n",
}


@pytest.mark.parametrize("program, expected", PRINTED.items())
def test_what_a_process_prints(console, program, expected):
    assert finish(Process(console, {}, exec, f"import os, sys\n{program}")) == 0
    assert console.read_text(errors="replace") == expected


def test_an_exception_is_at_the_end_of_the_console(console):
    assert finish(Process(console, {}, exec, "print('a'); raise RuntimeError('b:\\n  c')")) == 1
    first, *trace, message, more = console.read_text().splitlines()
    assert (first, message, more) == ("a", "RuntimeError: b:", "  c") and len(trace) > 1


@pytest.mark.slow
def test_a_process_computes_what_a_program_computes(tmp_path):
    forkserver._forkserver._stop()  # that of an earlier test may have other threads
    ends = []
    for name in ("process", "program"):
        words = ["train.py", "--trainer", "CoOp", "--seed", "2"]
        words += ["--dataset-config-file", "configs/datasets/emoji_animals.yaml"]
        words += ["--config-file", "configs/trainers/CoOp/emoji.yaml"]
        words += ["--output-dir", str(tmp_path / name), "DATASET.NUM_SHOTS", "1"]
        words += ["OPTIM.MAX_EPOCH", "1"]
        if name == "process":
            console = tmp_path / "console.txt"
            assert finish(Process(console, {}, train, words)) == 0, console.read_text()
        else:
            subprocess.run([sys.executable, *words], check=True, cwd=ROOT, capture_output=True)
        checkpoint = tmp_path / name / "prompt_learner" / "model.pth.tar-1"
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        ends.append((state, (tmp_path / name / "predictions.npz").read_bytes()))
    (ours, our_answers), (theirs, their_answers) = ends
    assert our_answers == their_answers and ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
