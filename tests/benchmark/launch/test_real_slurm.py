"""Runs as jobs of a real Slurm of one node, where its programs are installed and this is root."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch
from checkout import wait_for
from paths import ROOT
from slurm_cluster import MOST_JOBS, Cluster, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"no Slurm here: {why_not()}"),
]

ONE = ("--trainers", "CoOp", "--seeds", "1")
SLURM = "--slurm=--time=10 --ntasks=1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_the_table_of_the_local_engine(checkout, cluster):
    words = ("--seeds", "1 2")
    fake = {"ALIGN/2/base": "error"}
    jobs = (SLURM, "--per-job", "2", "--wait")
    done = checkout.base2new(*words, *jobs, code=1, fake=fake, **cluster.variables)
    assert "[12/12]" in done.stderr and checkout.output.exists()
    checkout.run("rm", "-r", checkout.output)
    assert checkout.base2new(*words, code=1, fake=fake).stdout == done.stdout


def test_a_job_that_is_told_to_end_is_requeued_and_goes_on(checkout, cluster):
    fake = {"CoOp/1/base": "slow once"}
    checkout.base2new(*ONE, SLURM, fake=fake, **cluster.variables)
    wait_for(lambda: checkout.calls() and cluster.running())
    time.sleep(1)  # the fake writes its checkpoint
    (task,) = cluster.running()
    cluster.ask("scancel", "--signal=USR1", "--batch", task)
    wait_for(lambda: len(checkout.calls()) == 3, seconds=60)
    assert checkout.calls()[1]["resume"] == str(checkout.folder("CoOp", 1))
    assert checkout.runs() == ["CoOp/1/base", "CoOp/1/base", "CoOp/1/new"]


def test_a_job_that_is_cancelled_is_not_requeued_and_told(checkout, cluster):
    fake = {"CoOp/1/base": "slow"}
    checkout.base2new(*ONE, SLURM, fake=fake, **cluster.variables)
    wait_for(lambda: checkout.calls() and cluster.running())
    (task,) = cluster.running()
    cluster.ask("scancel", task)
    wait_for(lambda: not cluster.ask("squeue", "--me", "-h"))
    told = checkout.run(sys.executable, "-m", "benchmark", "status", **cluster.variables).stdout
    assert "base: failed (its job has ended (CANCELLED, " in told
    assert "new: not queued (it needs CoOp on emoji, seed 1, base, which is failed)" in told
    again = checkout.base2new(*ONE, SLURM, "--wait", **cluster.variables)
    assert "[2/2]" in again.stderr and "Not complete" not in again.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--partition=nowhere", "Invalid partition name specified"),
        ("--nonsense=1", "unrecognized option '--nonsense=1'"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(checkout, cluster, options, sentence):
    refused = checkout.base2new(*ONE, f"--slurm={options}", code=2, **cluster.variables)
    assert sentence in refused.stderr and refused.stderr.count("\n") == 1


def test_a_full_queue_is_told(checkout, cluster):
    seeds = " ".join(map(str, range(MOST_JOBS // 2 + 10)))
    held = "--slurm=--hold --time=1"
    words = ("--trainers", "CoOp", "--seeds", seeds, held)
    refused = checkout.base2new(*words, code=1, **cluster.variables)
    assert "The queue is full" in refused.stderr and refused.stderr.count("\n") == 1
    cluster.ask("scancel", "--me")


def test_trainings_that_are_killed_end_in_the_numbers_of_the_local_engine(tmp_path, cluster):
    words = [sys.executable, "-m", "benchmark", "base2new", "emoji", "--seeds", "1 2"]
    few = ["--trainers", "ZeroshotCLIP CoOp", "--shots", "2", "OPTIM.MAX_EPOCH", "4"]
    few += ["DATALOADER.NUM_WORKERS", "0"]
    environment = os.environ | cluster.variables | {"OMP_NUM_THREADS": "1"}

    def call(place, *more, code=0):
        command = [*words, "--output", str(tmp_path / place), *more, *few]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr

    call("local")
    call("jobs", SLURM)
    chance = random.Random(0)
    for _ in range(3):
        wait_for(cluster.running, seconds=60)
        time.sleep(chance.uniform(2, 8))
        for task in cluster.running()[:1]:
            cluster.ask("scancel", "--signal=KILL", task)
        for task in cluster.running()[1:]:
            cluster.ask("scancel", "--signal=USR1", "--batch", task)
    cluster.stop_daemon("slurmd")
    cluster.start_daemon("slurmd")
    wait_for(lambda: not cluster.ask("squeue", "--me", "-h"), seconds=300)
    call("jobs", SLURM, "--wait")
    assert accuracies(tmp_path / "jobs") == accuracies(tmp_path / "local")
    trained = list((tmp_path / "local").rglob("model.pth.tar-4"))
    assert len(trained) == 2  # of CoOp
    for path in trained:
        other = tmp_path / "jobs" / path.relative_to(tmp_path / "local")
        mine, theirs = (torch.load(p, weights_only=False)["state_dict"] for p in (path, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


def accuracies(output) -> dict:
    found = output.rglob("results.json")
    return {str(p.relative_to(output)): json.loads(p.read_text())["accuracy"] for p in found}
