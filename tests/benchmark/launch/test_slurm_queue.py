"""Which runs are submitted to Slurm, by the queue, the book and the records."""

import pytest
from fake_slurm import FakeSlurm

from benchmark.launch.engine import Engine, Settings
from benchmark.launch.slurm import executor
from benchmark.launch.slurm.executor import Slurm, plan
from benchmark.launch.slurm.queue import requeue
from benchmark.launch.slurm.site import Site
from benchmark.protocols import BASE2NEW, CROSS_DATASET
from trainers.prompting.errors import UserError


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = FakeSlurm(tmp_path / "slurm")
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    return slurm


@pytest.fixture
def submit(checkout, slurm):
    """A function that submits runs, and returns those that are in the queue and those submitted."""
    jobs = Slurm(checkout.output, "base2new", [], Site([], [], "python"))
    return lambda runs: jobs.submit(Engine(runs, Settings()))


def test_a_job_that_ends_between_two_looks_is_not_submitted_again(
    planned, slurm, submit, monkeypatch
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
    assert all((run.folder / "results.json").exists() for run in runs) and not slurm.calls()


def test_a_launcher_killed_after_sbatch_leaves_no_unknown_job(planned, slurm, submit, monkeypatch):
    runs, sbatch = planned[BASE2NEW], executor.sbatch

    def killed(script):
        sbatch(script)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(executor, "sbatch", killed)
        submit(runs)
    assert submit(runs) == (runs, []) and len(slurm.calls()) == 1


def test_a_full_disk_says_how_many_runs_were_submitted(planned, slurm, submit, monkeypatch):
    monkeypatch.setenv("FAKE_SLURM_MOST", "3")  # two jobs in an array
    write_whole = executor.write_whole

    def full(path, text):
        if slurm.calls():
            raise OSError(28, "No space left on device")
        write_whole(path, text)

    monkeypatch.setattr(executor, "write_whole", full)
    with pytest.raises(UserError, match=r"No space left.*then rerun \(4 runs were submitted befo"):
        submit(planned[BASE2NEW])


def test_a_job_requeued_without_progress_is_given_up(slurm, monkeypatch):
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
