"""Runs as jobs of a real one-node Slurm, if its programs are installed and this is root."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from checkout import wait_for
from paths import ROOT
from slurm_cluster import MOST_JOBS, MOST_TASKS, Cluster, why_not

from trainers.prompting.checkpoint.files import saved_epochs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(why_not() is not None, reason=f"cannot start Slurm: {why_not()}"),
]

ONE = ("--trainers", "CoOp", "--seeds", "1")
SLURM = "--slurm=--time=60 --ntasks=1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def code(checkout, cluster):
    """Jobs are separate processes; the last one of another test may still be ending."""
    checkout.write_code()
    cluster.end_jobs()


def test_jobs_give_the_table_of_local_runs(checkout, cluster):
    words = ("--seeds", "1 2")
    fake = {"ALIGN/2/base": "error"}
    jobs = (SLURM, "--per-job", "2", "--wait")
    done = checkout.base2new(*words, *jobs, code=1, fake=fake, **cluster.variables)
    assert "[14/14]" in done.stderr and checkout.output.exists()
    checkout.run("rm", "-r", checkout.output)
    assert checkout.base2new(*words, code=1, fake=fake).stdout == done.stdout


def test_a_job_that_gets_the_signal_to_end_is_requeued_and_resumes(checkout, cluster):
    fake = {"CoOp/1/base": "slow once"}
    checkout.base2new(*ONE, SLURM, fake=fake, **cluster.variables)
    checkpoint = checkout.folder("CoOp", 1) / "prompt_learner" / "checkpoint"
    wait_for(lambda: checkpoint.exists() and cluster.running())
    (task,) = cluster.running()
    cluster.ask("scancel", "--signal=USR1", "--batch", task)
    wait_for(lambda: len(checkout.calls()) == 3)
    assert checkout.calls()[1]["resume"] == str(checkout.folder("CoOp", 1))
    assert checkout.runs() == ["CoOp/1/base", "CoOp/1/base", "CoOp/1/new"]


def test_a_cancelled_job_is_reported_and_not_requeued(checkout, cluster):
    fake = {"CoOp/1/base": "slow"}
    checkout.base2new(*ONE, SLURM, fake=fake, **cluster.variables)
    wait_for(lambda: checkout.calls() and cluster.running())
    (task,) = cluster.running()
    cluster.ask("scancel", task)
    wait_for(lambda: not cluster.queued())
    told = checkout.run(sys.executable, "-m", "benchmark", "status", **cluster.variables).stdout
    assert "base: failed (its job has ended (CANCELLED, " in told
    assert "new: not queued (it needs CoOp on emoji, seed 1, base: failed)" in told
    again = checkout.base2new(*ONE, SLURM, "--wait", **cluster.variables)
    assert "[2/2]" in again.stderr and "Not complete" not in again.stdout


def test_a_node_that_dies_costs_an_epoch(checkout, cluster):
    fake = {"CoOp/1/base": "slow once"}
    checkout.base2new(*ONE, SLURM, fake=fake, **cluster.variables)
    checkpoint = checkout.folder("CoOp", 1) / "prompt_learner" / "checkpoint"
    wait_for(lambda: checkpoint.exists() and cluster.running())
    cluster.crash_node(checkout.calls()[0]["pid"])
    told = checkout.run(sys.executable, "-m", "benchmark", "status", **cluster.variables).stdout
    assert "base: queued (job " in told
    cluster.start_daemon("slurmd")
    wait_for(lambda: len(checkout.calls()) == 3)
    assert checkout.calls()[1]["resume"] == str(checkout.folder("CoOp", 1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--partition=nowhere", "Invalid partition name specified"),
        ("--nonsense=1", "unrecognized option '--nonsense=1'"),
    ],
)
def test_refusals_of_slurm_are_quoted(checkout, cluster, options, sentence):
    refused = checkout.base2new(*ONE, f"--slurm={options}", code=2, **cluster.variables)
    assert sentence in refused.stderr and refused.stderr.count("\n") == 1


def test_a_full_queue_is_reported(checkout, cluster):
    seeds = " ".join(map(str, range(MOST_JOBS + 10)))
    held = "--slurm=--hold --time=1"
    words = ("--trainers", "CoOp", "--seeds", seeds, held)
    refused = checkout.base2new(*words, code=1, **cluster.variables)
    assert "The queue is full" in refused.stderr and refused.stderr.count("\n") == 1
    arrays = Counter(task.partition("_")[0] for task in cluster.queued())
    assert set(arrays.values()) == {MOST_TASKS}
    cluster.ask("scancel", "--me")


# In a job, each training pauses in epochs 2 and 3 until it is killed, so that every kill hits a
# running training. It pauses once in each epoch: when restarted, it continues.
HELD = """
import multiprocessing, os, time
from pathlib import Path

import torch

from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp


@register
class Held(CoOp):
    def after_epoch(self, epoch, last):
        job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        place = Path(os.environ["HELD"], f"seed{torch.initial_seed()}-{epoch}")
        if job and epoch in (2, 3) and not place.exists():
            launcher = multiprocessing.parent_process().pid
            place.with_suffix(".tmp").write_text(f"{job}_{task} {launcher}")
            place.with_suffix(".tmp").rename(place)
            time.sleep(3600)
            raise RuntimeError("this training was not killed")
"""


def test_killed_trainings_end_in_the_numbers_of_local_runs(tmp_path, cluster):
    plugin, held = tmp_path / "plugin" / "held.py", tmp_path / "held"
    (plugin.parent / "Held").mkdir(parents=True)
    held.mkdir()
    plugin.write_text(HELD)
    shutil.copy(ROOT / "configs/trainers/CoOp/emoji.yaml", plugin.parent / "Held")
    words = [sys.executable, "-m", "benchmark", "base2new", "emoji", "--plugin", str(plugin)]
    words += ["--trainers", "ZeroshotCLIP Held", "--shots", "2", "--seeds", "1 2"]
    few = ["OPTIM.MAX_EPOCH", "4", "DATALOADER.NUM_WORKERS", "0"]
    environment = os.environ | cluster.variables | {"OMP_NUM_THREADS": "1", "HELD": str(held)}

    def call(place, *more):
        command = [*words, "--output", str(tmp_path / place), *more, *few]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    call("local")
    call("jobs", SLURM)
    trainings = tmp_path / "jobs/base2new/train_base/emoji/shots_2/Held/emoji"
    killed: set[Path] = set()
    for number in range(4):  # two trainings, each held twice
        wait_for(lambda: set(held.glob("seed?-?")) - killed, seconds=300)
        place = min(set(held.glob("seed?-?")) - killed)
        seed, epoch = place.name.split("-")
        folder, (task, launcher) = trainings / seed, place.read_text().split()
        assert saved_epochs(folder / "prompt_learner") == [int(epoch) - 1]
        assert task in cluster.running() and not (folder / "results.json").exists()
        if number == 2:
            cluster.restart_node()
        if number == 3:  # nobody ends the training but itself
            os.kill(int(launcher), signal.SIGKILL)
        else:
            cluster.ask("scancel", "--signal=KILL", task)
        wait_for(lambda task=task: task not in cluster.queued())
        killed.add(place)
        call("jobs", SLURM)  # submits the killed training again
    call("jobs", SLURM, "--wait")
    assert accuracies(tmp_path / "jobs") == accuracies(tmp_path / "local")
    for seed in ("seed1", "seed2"):
        console = (trainings / seed / "console.txt").read_text()
        starts = [line for line in console.splitlines() if line.startswith("$ ")]
        assert len(starts) == 3 and "was not killed" not in console
    trained = list((tmp_path / "local").rglob("model.pth.tar-4"))
    assert len(trained) == 2
    for path in trained:
        other = tmp_path / "jobs" / path.relative_to(tmp_path / "local")
        mine, theirs = (torch.load(p, weights_only=False)["state_dict"] for p in (path, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


def accuracies(output) -> dict:
    found = output.rglob("results.json")
    return {str(p.relative_to(output)): json.loads(p.read_text())["accuracy"] for p in found}
