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


def finish(process: Process) -> tuple[int, bytes, bytes]:
    """Return the exit code of a process, and what it wrote to its two streams."""
    wait_for(lambda: process.poll() is not None)
    written = [os.read(end.fileno(), 1 << 16) for end in (process.out, process.errors)]
    return process.poll(), *written


@pytest.mark.slow
def test_a_protocol_in_a_process_that_has_computed_in_threads(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(COMPUTED)
    words = [
        "few_shot",
        "emoji_animals",
        "--trainers",
        "ZeroshotCLIP",
        "--seeds",
        "1",
        "--shots",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, script, *words, "--output", tmp_path / "output"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert "1 runs, 1 to do" in done.stderr and "[1/1]" in done.stderr


def test_what_a_process_has(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATE", "set after the fork server has started")
    code, out, errors = finish(Process({"GIVEN": "a variable"}, exec, PROBE))
    first = f"/dev/null {tmp_path} a variable set after the fork server has started\n"
    assert out.decode() == f"{first}backslashreplace True True \\udcff\n"
    assert (code, errors) == (1, b"in one sentence\n")


def test_signals_and_exit_codes():
    hears = Process({}, exec, "import time; print('ready'); time.sleep(60)")
    assert os.read(hears.out.fileno(), 100) == b"ready\n" and hears.poll() is None
    os.killpg(hears.pid, signal.SIGTERM)
    assert finish(hears)[0] == -signal.SIGTERM
    assert finish(Process({}, exec, "raise SystemExit(3)"))[0] == 3
    assert finish(Process({}, exec, ""))[0] == 0


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
            code, _, errors = finish(Process({}, train, words))
            assert code == 0, errors
        else:
            subprocess.run([sys.executable, *words], check=True, cwd=ROOT, capture_output=True)
        checkpoint = tmp_path / name / "prompt_learner" / "model.pth.tar-1"
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        ends.append((state, (tmp_path / name / "predictions.npz").read_bytes()))
    (ours, our_answers), (theirs, their_answers) = ends
    assert our_answers == their_answers and ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_without_a_fork_server_no_pipe_stays_open(monkeypatch):
    def refuse(_):
        raise EOFError

    monkeypatch.setattr(forkserver, "connect_to_new_process", refuse)
    open_files = []
    for _ in range(2):
        with pytest.raises(OSError, match="the fork server has ended"):
            Process({}, exec, "")
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert open_files[0] == open_files[1]
