"""Runs as Slurm jobs, with a fake queue in a folder.

The file is long because the queue, what it loses and what is resubmitted share one set-up.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from checkout import ONE, PATIENCE, alive, hear_interrupts, wait_for
from fake_slurm import RUNNING, FakeSlurm

from benchmark.launch.engine import Engine, Settings
from benchmark.launch.slurm import executor
from benchmark.launch.slurm.executor import Slurm, plan
from benchmark.launch.slurm.queue import requeue
from benchmark.launch.slurm.site import Site
from benchmark.protocols import BASE2NEW, CROSS_DATASET

pytestmark = pytest.mark.processes
SLURM = "--slurm=--time=5 --partition all"


@pytest.fixture
def slurm(tmp_path):
    return FakeSlurm(tmp_path / "slurm")


def status(checkout, slurm) -> str:
    done = checkout.protocol("status", **slurm.variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def work(checkout, slurm, **fake):
    checkout.write_code()
    slurm.work(checkout.environment(**fake) | slurm.variables)


def has_pending(slurm) -> bool:
    """Return True if a job has not run yet; the book and the calls of sbatch are written before."""
    return any(job["tasks"] for job in slurm.jobs())


@contextmanager
def launcher(checkout, slurm, folder, *words, **more):
    """Start a launcher whose messages go to the file `told`, and wait until it waits for 2 runs."""
    told = folder / "told"
    with open(told, "w") as file:
        process = checkout.start(*words, stderr=file, **slurm.variables, **more)
    with process:
        try:
            said = "In the queue: 2 PENDING (Priority)\n"
            wait_for(lambda: said in told.read_text() or process.poll() is not None)
            yield process
        finally:
            process.kill()


def test_jobs_are_submitted_once_and_give_the_table_of_local_runs(checkout, slurm):
    methods = ("--trainers", "ZeroshotCLIP CoOp", "--seeds", "1 2")
    words = (*methods, "--per-job", "2")
    first = checkout.base2new(*words, SLURM, **slurm.variables)
    assert "6 runs: 0 were done, 0 in the queue, 6 have been submitted." in first.stderr
    assert first.stdout == "" and not checkout.calls()
    told = status(checkout, slurm)
    assert "CoOp on emoji, seed 2, base: queued (job 1_1, PENDING, Priority)" in told
    assert "6 runs: 6 queued. The time left is unknown" in told
    again = checkout.base2new(*words, SLURM, **slurm.variables)
    assert "6 in the queue, 0 have been submitted" in again.stderr and len(slurm.calls()) == 1
    nobody = checkout.protocol("status", PATH="/nowhere")
    assert "6 runs: 6 not queued" in nobody.stdout and "are not available" in nobody.stderr
    work(checkout, slurm)
    assert len(checkout.runs()) == 6
    told = status(checkout, slurm)
    assert "CoOp on emoji, seed 2, base: done (52.00%)" in told
    assert told.endswith("6 runs: 6 done. Nothing remains.\n")
    table = checkout.base2new(*words, SLURM, **slurm.variables).stdout
    shutil.rmtree(checkout.output)
    assert checkout.base2new(*methods).stdout == table


def test_a_failure_stops_only_what_needs_it_and_the_same_command_submits_the_rest(checkout, slurm):
    words = ("--trainers", "CoOp ALIGN", "--seeds", "1 2", "--per-job", "2", SLURM)
    checkout.base2new(*words, **slurm.variables)
    work(checkout, slurm, **{"CoOp/1/base": "error"})
    assert "ALIGN/1/new" in checkout.runs() and "CoOp/1/new" not in checkout.runs()
    told = status(checkout, slurm)
    assert "seed 1, base: failed (The loss is not finite at step 31; see " in told
    assert "CoOp on emoji, seed 1, new: failed (its job has ended: " in told
    assert "8 runs: 6 done, 2 failed. Time left: about 0.0" in told
    again = checkout.base2new(*words, **slurm.variables)
    assert "6 were done, 0 in the queue, 2 have been submitted" in again.stderr
    work(checkout, slurm)
    assert "8 runs: 8 done." in status(checkout, slurm)


def test_a_test_of_a_queued_training_is_submitted_on_a_later_call(checkout, slurm):
    words = ("--source", "emoji", "--trainers", "CoOp", "--seeds", "1", SLURM)
    checkout.protocol("cross_dataset", "emoji_food", *words, **slurm.variables)

    def both():
        sets = ("emoji_food", "emoji_animals")
        return checkout.protocol("cross_dataset", *sets, *words, **slurm.variables).stderr

    needs = "2 in the queue, 0 have been submitted, 1 need a training in the queue.\n"
    assert needs in both() and len(slurm.calls()) == 1
    work(checkout, slurm)
    assert "2 were done, 0 in the queue, 1 have been submitted.\n" in both()
    work(checkout, slurm)
    assert len(checkout.calls()) == 3 and "3 runs: 3 done." in status(checkout, slurm)


@pytest.mark.slow
def test_a_test_of_a_queued_training_is_waited_for(checkout, slurm, tmp_path):
    words = ("--source", "emoji", "--trainers", "CoOp", "--seeds", "1", SLURM)
    checkout.protocol("cross_dataset", "emoji_food", *words, **slurm.variables)
    sets = ("emoji_food", "emoji_animals", "--wait")
    with launcher(checkout, slurm, tmp_path, *sets, *words, command="cross_dataset") as process:
        work(checkout, slurm)
        wait_for(lambda: has_pending(slurm) or process.poll() is not None)
        work(checkout, slurm)
        process.communicate(timeout=PATIENCE)
    told = (tmp_path / "told").read_text()
    assert "[3/3] CoOp on emoji_animals from emoji" in told and process.returncode == 0, told
    assert len(slurm.calls()) == 2


def test_a_damaged_book_is_one_sentence(checkout, slurm):
    checkout.base2new(*ONE, SLURM, **slurm.variables)
    book = checkout.output / "slurm" / "book.json"
    for text in ("{", "[]", '{"a": 1}'):
        book.write_text(text)
        refused = checkout.base2new(*ONE, SLURM, code=1, **slurm.variables)
        assert f"'{book}' cannot be read (" in refused.stderr and refused.stderr.count("\n") == 1


def test_status_quotes_the_log_of_an_ended_job(checkout, slurm):
    checkout.base2new(*ONE, SLURM, **slurm.variables)
    (training,) = slurm.jobs()
    training["tasks"] = {"0": RUNNING}
    slurm.keep(training)
    console = checkout.folder("CoOp", 1) / "console.txt"
    console.write_text("$ train.py\nepoch [3/4] loss 0.5 eta 1\n")
    told = status(checkout, slurm)
    assert "base: running (job 1_0, epoch [3/4] loss 0.5 eta 1)" in told
    assert "new: queued (job 1_0, after another of that job)" in told
    training["tasks"] = {}
    slurm.keep(training)
    log = training["log"].replace("%a", "0")
    sentence = "slurmstepd: error: *** JOB 1 ON n7 CANCELLED AT 2030-01-01T00:00:00 ***"
    with open(log, "w") as file:
        file.write(f"started\n{sentence}\n")
    assert f"failed (its job has ended: {sentence.strip(' *')} (see {log}))" in status(
        checkout, slurm
    )


def test_five_hundred_runs_are_few_calls(checkout, slurm):
    seeds = " ".join(map(str, range(83)))
    before = time.process_time()  # CPU time, which does not depend on other load
    done = checkout.base2new("--seeds", seeds, SLURM, **slurm.variables)
    assert time.process_time() - before < 10
    assert "500 have been submitted" in done.stderr and len(slurm.calls()) <= 20


@pytest.mark.slow
def test_waiting_ends_in_the_table_and_a_failed_run_in_code_1(checkout, slurm, tmp_path):
    fake = {"CoOp/1/new": "crash"}
    with launcher(checkout, slurm, tmp_path, *ONE, SLURM, "--wait") as process:
        work(checkout, slurm, **fake)
        stdout, _ = process.communicate(timeout=PATIENCE)
    told = (tmp_path / "told").read_text()
    assert "[1/2] CoOp on emoji, seed 1, base: 51.00%" in told and process.returncode == 1, told
    assert "- CoOp, new: failed: RuntimeError: Sizes do not match: [seed 1]" in stdout


def test_dry_run_prints_the_script(checkout, slurm):
    site = "options: --account=lab\nsetup: [module load cuda]\npython: their/python\n"
    (checkout.root / "slurm.yaml").write_text(site)
    listed = checkout.base2new(*ONE, SLURM, "--dry-run", **slurm.variables).stdout
    assert not slurm.calls() and not checkout.output.exists()
    for line in ("#SBATCH --account=lab", "#SBATCH --time=5 --partition all", "module load cuda"):
        assert f"\n{line}\n" in listed
    assert "\nexec their/python -m benchmark base2new " in listed
    assert listed.index("--account") < listed.index("--time")  # for Slurm, the last one counts
    (checkout.root / "slurm.yaml").write_text("setup: echo set up\n")
    listed = checkout.base2new(*ONE, SLURM, "--dry-run", **slurm.variables).stdout
    elsewhere = checkout.base2new(*ONE, SLURM, "--dry-run", PATH="/nowhere").stdout
    assert elsewhere == listed  # also without Slurm
    checkout.base2new(*ONE, SLURM, **slurm.variables)
    (submitted,) = slurm.jobs()
    assert submitted["script"].replace(submitted["name"], "base2new") == listed.rstrip("\n") + "\n"
    again = checkout.base2new(*ONE, SLURM, "--dry-run", **slurm.variables)
    assert not again.stdout.strip()  # nothing is left to submit


def test_dry_run_without_a_controller(checkout, tmp_path):
    """Slurm is installed, but no controller answers."""
    deaf = tmp_path / "deaf"
    deaf.mkdir()
    for name in ("sbatch", "squeue", "scontrol"):
        (deaf / name).write_text("#!/bin/sh\necho 'error: no controller' >&2\nexit 1\n")
        (deaf / name).chmod(0o755)
    path = f"{deaf}:{os.environ['PATH']}"
    told = checkout.base2new(*ONE, SLURM, "--dry-run", PATH=path)
    assert told.stdout == checkout.base2new(*ONE, SLURM, "--dry-run", PATH="/nowhere").stdout
    note = (
        "Runs that are queued are listed, too: `scontrol show config` failed: error: no controller"
    )
    assert f"{note}\n" in told.stderr
    refused = checkout.base2new(*ONE, SLURM, code=1, PATH=path)
    assert "failed: error: no controller\n" in refused.stderr


def test_a_job_that_slurm_interrupts_is_requeued_and_resumes(checkout, slurm):
    folder = checkout.folder("CoOp", 1)
    only = str(folder.relative_to(checkout.output))
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "1"}
    environment = checkout.environment(**{"CoOp/1/base": "slow once"}) | slurm.variables | job
    checkout.write_code()
    words = [sys.executable, "-m", "benchmark", "base2new", *ONE, "--only", only]
    process = subprocess.Popen(
        words, cwd=checkout.root, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    wait_for((folder / "prompt_learner" / "checkpoint").exists)
    process.send_signal(10)  # SIGUSR1
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Job 6_1 is requeued and resumes from the last epoch." in told
    assert "requeue 6_1" in (slurm.folder / "scontrol").read_text()
    assert subprocess.run(words, cwd=checkout.root, env=environment).returncode == 0
    assert checkout.calls()[1]["resume"] == str(folder)


def test_a_job_whose_launcher_is_killed_leaves_no_training(checkout, slurm):
    """A job that comes after it would wait for the training."""
    folder = checkout.folder("CoOp", 1)
    only = str(folder.relative_to(checkout.output))
    fake = {"CoOp/1/base": "slow"}
    process = checkout.start(*ONE, "--only", only, fake=fake, SLURM_JOB_ID="7")
    wait_for((folder / "prompt_learner" / "checkpoint").exists)
    time.sleep(0.5)  # a training that prints would notice
    process.kill()
    process.wait()
    wait_for(lambda: not alive(checkout.calls()[0]["pid"]))


def test_a_refusal_of_slurm_is_quoted(checkout, slurm):
    said = "invalid partition specified: gpuu\nsbatch: error: Batch job submission failed"
    (slurm.folder / "refuse").write_text(f"sbatch: error: {said}\n")
    words = ("--trainers", "CoOp", "--seeds", "1 2 3", SLURM)
    refused = checkout.base2new(*words, code=1, **slurm.variables)
    assert "`sbatch " in refused.stderr and said.replace("\n", " / ") in refused.stderr
    assert refused.stderr.count("\n") == 1
    (slurm.folder / "refuse").unlink()
    again = checkout.base2new(*words, **slurm.variables, FAKE_SLURM_MOST="3")  # two in an array
    assert "0 in the queue, 6 have" in again.stderr and len(slurm.jobs()) == 2


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ([SLURM], {"PATH": "/nowhere"}, "`scontrol` is not on the PATH"),
        (["--slurm", "--array=1-3"], {}, "--array cannot be given: the launcher sets it"),
        (["--slurm", "--per-job", "0"], {}, "'0' is not a whole number, 1 or more"),
        (["--slurm", "--per-job", "xh"], {}, "'xh' is not a whole number, 1 or more"),
        (["--only", "nothing"], {}, "There is no run 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence(checkout, slurm, words, variables, sentence):
    refused = checkout.base2new(*ONE, *words, code=2, **slurm.variables | variables)
    assert sentence in refused.stderr and refused.stderr.count("\n") == 1
    assert not slurm.calls()


def test_an_unknown_key_of_a_site_is_one_sentence(checkout, slurm):
    (checkout.root / "slurm.yaml").write_text("optoins: x\n")
    refused = checkout.base2new(*ONE, "--slurm", code=2, **slurm.variables)
    assert "'optoins': did you mean 'options'?" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_scripts_take_options_from_the_environment(checkout, slurm):
    done = checkout.run(
        "bash", "scripts/base2new.sh", *ONE, "--dry-run",
        SLURM="--gres=gpu:1", **slurm.variables,
    )  # fmt: skip
    assert "\n#SBATCH --gres=gpu:1\n" in done.stdout, done.stderr
    command = next(line for line in done.stdout.splitlines() if line.startswith("exec "))
    assert shlex.split(command)[:5] == ["exec", sys.executable, "-m", "benchmark", "base2new"]
    assert "--slurm" not in command and "--dry-run" not in command
    given = checkout.base2new(*ONE, "--slurm", "--gres=gpu:1", "--dry-run", **slurm.variables)
    assert "\n#SBATCH --gres=gpu:1\n" in given.stdout


@pytest.fixture
def here(slurm, monkeypatch):
    """The fake Slurm, for calls in this process."""
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    return slurm


@pytest.fixture
def submit(checkout, here):
    """A function that submits runs, and returns those that are in the queue and those submitted."""
    jobs = Slurm(checkout.output, "base2new", [], Site([], [], "python"))
    return lambda runs: jobs.submit(Engine(runs, Settings()))


def test_a_job_that_ends_between_two_looks_is_not_submitted_again(
    planned, here, submit, monkeypatch
):
    """Nor is its record deleted, which came after the launcher had read the records."""
    runs, read = planned[BASE2NEW], executor.read_queue

    def read_queue(output):
        queue = read(output)
        for run in runs:
            run.folder.mkdir(parents=True)
            (run.folder / "results.json").write_text("{}")
        return queue

    monkeypatch.setattr(executor, "read_queue", read_queue)
    assert submit(runs) == (runs, [])
    assert all((run.folder / "results.json").exists() for run in runs) and not here.calls()


def test_a_launcher_killed_after_sbatch_leaves_no_unknown_job(planned, here, submit, monkeypatch):
    runs, ask = planned[BASE2NEW], executor.ask

    def killed(*words):
        said = ask(*words)
        if words[0] == "sbatch":
            raise KeyboardInterrupt
        return said

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(executor, "ask", killed)
        submit(runs)
    assert submit(runs) == (runs, []) and len(here.calls()) == 1


def test_a_job_requeued_without_progress_is_given_up(here, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert "started 4 times" in requeue(advanced=False)
    assert "is requeued and resumes" in requeue(advanced=True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert "is requeued and resumes" in requeue(advanced=False)


@pytest.mark.parametrize("per_job", [1, 2])
def test_a_task_does_trainings_and_their_tests(planned, per_job):
    runs = planned[CROSS_DATASET]
    (tasks,) = plan(runs, [], per_job, most=1000)
    assert sorted(map(str, sum(tasks, []))) == sorted(map(str, runs))  # none is lost
    for task in tasks:
        trainings = [run for run in task if run.needs is None]
        assert len(trainings) <= per_job
        assert all(run.needs in task[: task.index(run)] for run in task if run.needs)


def test_arrays_are_no_longer_than_the_cluster_allows(planned):
    runs = planned[BASE2NEW]  # four trainings, each with a test
    assert [len(tasks) for tasks in plan(runs, [], per_job=1, most=3)] == [3, 1]
    training, test = runs[:2]
    assert plan([training, test], [training], per_job=1, most=3) == []  # on a later call
    assert plan([test], [], per_job=1, most=3) == [[[test]]]  # its training is done
