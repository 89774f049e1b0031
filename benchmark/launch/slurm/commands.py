"""Call Slurm's commands; their errors become one sentence each."""

import os
import re
import shlex
import subprocess
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trainers.prompting.errors import UserError

SECONDS = 60  # time limit of a command; a busy controller is slow
QUEUE_FULL = "sleeping and retrying"  # printed by sbatch, which would retry for minutes
PATIENCE = 3  # requeues without progress before a job is given up
USUAL_MOST = 1000  # most tasks of an array, by Slurm's default

# States that squeue shows for jobs that have ended lately.
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT", "REVOKED", "PREEMPTED", "LAUNCH_FAILED",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task of a job array in the queue."""

    name: str
    job: str
    index: int
    state: str
    reason: str
    started: float = 0.0  # seconds since the epoch; 0 before that

    @property
    def ended(self) -> bool:
        """True if the task has ended, in whatever way."""
        return self.state in ENDED

    def __str__(self) -> str:
        return f"{self.job}_{self.index}"


def sbatch(script: Path, after: str | None = None) -> str:
    """Submit a script.

    Args:
        script: the file.
        after: the id of a job array; each task starts after the task of the same number there has
            succeeded.

    Returns:
        The job's id.

    Raises:
        UserError: Slurm refuses the script, or the queue is full.
    """
    words = ["sbatch", "--parsable"]
    if after:
        words.append(f"--dependency=aftercorr:{after}")
    process = _start([*words, str(script)])
    killer = threading.Timer(SECONDS, process.kill)
    killer.start()
    said = []
    try:
        for line in process.stderr or ():
            said.append(line.strip().removeprefix("sbatch: error: ").removeprefix("sbatch: "))
            if QUEUE_FULL in line:
                process.kill()
        answer, _ = process.communicate()
    finally:
        killer.cancel()
    if any(QUEUE_FULL in line for line in said):
        raise UserError(
            f"The queue is full ({said[0]}): rerun the command later to submit the rest", 1
        )
    if process.returncode:
        raise UserError(
            f"sbatch refuses {script}: {' / '.join(said) or 'no message'}: correct "
            "the Slurm options (docs/slurm.md) and rerun"
        )
    return answer.strip().partition(";")[0]  # ;cluster


def squeue() -> list[Task]:
    """Return the tasks of this user's job arrays that wait, run, or ended lately.

    Raises:
        UserError: squeue fails.
    """
    form = "%j|%F|%K|%T|%S|%r"
    tasks = []
    for line in _answer(["squeue", "--me", "-h", "-r", "-t", "all", "-o", form]).splitlines():
        name, job, index, state, start, reason = line.strip().split("|", 5)
        if index.isdecimal():
            tasks.append(Task(name, job, int(index), state, reason, _seconds(start)))
    return tasks


def _seconds(local_time: str) -> float:
    """Convert a local time in ISO format to seconds since the epoch; 0 if it is none (`N/A`)."""
    try:
        return datetime.fromisoformat(local_time).timestamp()
    except ValueError:
        return 0.0


def most_tasks() -> int:
    """Return the most tasks that a job array may have on this cluster.

    Raises:
        UserError: scontrol fails.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _answer(["scontrol", "show", "config"]), re.M)
    return max(1, int(found[1]) - 1) if found else USUAL_MOST


def requeue(advanced: bool) -> str:
    """Put the job of this process back into the queue; return a sentence on the result.

    A job is not requeued if it was cancelled, if Slurm requeues it itself, or if it has been
    requeued several times without progress.

    Args:
        advanced: True if an epoch or a run was completed since the job last started.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= PATIENCE and not advanced:
        return (
            f"The job has been started {restarts + 1} times and did not complete an epoch this "
            "time, so it is not requeued: give it a longer --time"
        )
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    try:
        shown = _answer(["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]])
        found = re.search(r"JobState=(\w+)", shown)
        state = found[1] if found else ""
        if state not in ("RUNNING", "TIMEOUT"):
            return f"Job {job} is {state}, so it is not requeued."
        _answer(["scontrol", "requeue", job])
    except UserError as error:
        return f"Job {job} cannot be requeued: {error}"
    return f"Job {job} is requeued and resumes from the last epoch."


def _answer(words: list[str]) -> str:
    """Run a command and return its stdout."""
    process = _start(words)
    try:
        answer, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise UserError(
            f"`{shlex.join(words)}` has not answered in {SECONDS} s: rerun when Slurm is less busy",
            1,
        ) from None
    if process.returncode:
        said = " / ".join(said.strip().splitlines())
        raise UserError(f"`{shlex.join(words)}` failed: {said}", 1)
    return answer


def _start(words: list[str]) -> subprocess.Popen:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise UserError(
            f"`{words[0]}` is not on the PATH: call this where Slurm's commands are installed"
        ) from None
