"""Runs started as forks and as programs."""

import errno
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT

from benchmark.launch.start import Starter

pytestmark = pytest.mark.processes

PLUGIN = ROOT / "examples/atprompt.py"

# Start train.py as a fork if the first argument is "forks", else as a program; print the way that
# was used, and the exit code.
START = """
import os, sys, time
from benchmark.launch.start import Starter

starter = Starter(forks=sys.argv[1] == "forks")
starter.warm_up([sys.argv[2]])
process = starter.start([sys.executable, "train.py", *sys.argv[3:]], {})
print("program" if os.getsid(process.pid) == process.pid else "fork")
while process.poll() is None:
    time.sleep(0.05)
print(process.poll(), end="")
"""


def start(*words: str, threads: str = "1", stdin=None):
    environment = {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", START, *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=stdin,
    )


# A plug-in that notes the stdin of its process and the error handlers of its streams.
PROBE = """
import os, sys
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

@register
class Probe(CoOp):
    pass

with open({!r}, "a") as file:
    print(os.readlink("/proc/self/fd/0"), sys.stdout.errors, sys.stderr.errors, file=file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_a_fork_computes_what_a_program_computes_reads_nothing_and_writes_any_name(tmp_path):
    plugin, probe = str(PLUGIN), tmp_path / "probe.py"
    probe.write_text(PROBE.format(str(tmp_path / "seen")))
    ends = {}
    for how in ("forks", "programs"):
        flags = ["--plugin", plugin, "--plugin", str(probe), "--trainer", "ATPrompt"]
        flags += ["--seed", "2"]
        flags += ["--dataset-config-file", "configs/datasets/emoji.yaml"]
        flags += ["--config-file", "configs/trainers/CoOp/emoji.yaml"]
        flags += ["--output-dir", str(tmp_path / how), "DATASET.NUM_SHOTS", "1"]
        with open(__file__) as stdin:
            done = start(how, plugin, *flags, "OPTIM.MAX_EPOCH", "1", stdin=stdin)
        assert done.stdout.split() == [how[:-1], "0"], done.stderr
        checkpoint = tmp_path / how / "prompt_learner" / "model.pth.tar-1"
        ends[how] = torch.load(checkpoint, weights_only=True)["state_dict"]
        ends[how] |= {"answers": (tmp_path / how / "predictions.npz").read_bytes()}
    line = "/dev/null backslashreplace backslashreplace\n"
    assert (tmp_path / "seen").read_text() == 2 * line
    assert ends["forks"].keys() == ends["programs"].keys()
    for name, value in ends["forks"].items():
        other = ends["programs"][name]
        assert value == other if name == "answers" else torch.equal(value, other), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_after_a_plug_in_that_computes_in_threads_runs_are_programs(tmp_path):
    plugin = tmp_path / "threads.py"
    plugin.write_text(PLUGIN.read_text() + "\ntorch.randn(999, 999) @ torch.randn(999, 999)\n")
    done = start("forks", str(plugin), "--version", threads="2")
    assert done.stdout.split() == ["program", "0"]
    assert "A plug-in starts threads: each run imports PyTorch by itself" in done.stderr


def test_libraries_are_imported_after_the_number_of_threads_is_set():
    code = "import benchmark.launch.command, sys; print({'numpy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def test_import_errors_are_left_to_the_runs(capsys):
    starter = Starter(forks=True)
    starter.warm_up(["no_such_plug_in"])
    process = starter.start([sys.executable, "-c", "print('program')"], {})
    with open(process.out) as out, open(process.errors):
        assert out.read() == "program\n"
    assert capsys.readouterr() == ("", "")


def test_a_fork_without_memory_leaves_no_pipe_open(monkeypatch):
    starter = Starter(forks=True)
    starter.warm_up([])

    def refuse(_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Cannot allocate memory"):
        starter.start([sys.executable, "-c", ""], {})
    assert len(os.listdir("/proc/self/fd")) == len(before)
