"""Slurm's own commands, and what they refuse in one sentence each."""

import os
import re
import shlex
import subprocess
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trainers.prompting.errors import UserError

SECONDS = 60  # that a command may take: a busy controller answers late
QUEUE_FULL = "sleeping and retrying"  # sbatch says so, and would go on for minutes
PATIENCE = 3  # times that a job comes back before it must have advanced
USUAL_MOST = 1000  # tasks of an array, where Slurm's default has not been changed

# What squeue tells of jobs that have ended lately.
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT", "REVOKED", "PREEMPTED", "LAUNCH_FAILED",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task of a job array, as the queue has it."""

    name: str
    job: str
    index: int
    state: str
    reason: str
    started: float = 0.0  # seconds since the epoch; 0 before that

    @property
    def ended(self) -> bool:
        """Whether it is over, however it went."""
        return self.state in ENDED

    def __str__(self) -> str:
        return f"{self.job}_{self.index}"


def sbatch(script: Path, after: str | None = None) -> str:
    """Submit a script.

    Args:
        script: the file.
        after: id of the job array whose task of the same number must have ended well.

    Returns:
        The job's id.

    Raises:
        UserError: Slurm refuses, in its own words; or the queue is full.
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
            f"The queue is full ({said[0]}): the same command later submits the rest", 1
        )
    if process.returncode:
        raise UserError(f"sbatch refuses {script}: {' / '.join(said) or 'without a word'}")
    return answer.strip().partition(";")[0]  # ;cluster


def squeue() -> list[Task]:
    """The tasks of this user's job arrays that wait, run, or ended lately.

    Raises:
        UserError: the queue cannot be asked.
    """
    form = "%j|%F|%K|%T|%S|%r"
    tasks = []
    for line in _answer(["squeue", "--me", "-h", "-r", "-t", "all", "-o", form]).splitlines():
        name, job, index, state, start, reason = line.strip().split("|", 5)
        if index.isdecimal():
            tasks.append(Task(name, job, int(index), state, reason, _seconds(start)))
    return tasks


def _seconds(local_time: str) -> float:
    """A local time in ISO form as seconds since the epoch; 0 for `N/A` and the like."""
    try:
        return datetime.fromisoformat(local_time).timestamp()
    except ValueError:
        return 0.0


def most_tasks() -> int:
    """How many tasks a job array may have here.

    Raises:
        UserError: the controller cannot be asked.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _answer(["scontrol", "show", "config"]), re.M)
    return max(1, int(found[1]) - 1) if found else USUAL_MOST


def requeue(advanced: bool) -> str:
    """Put the job that this process is in back into the queue; what became of that, in words.

    A job that somebody cancelled, or that Slurm itself requeues, is left as it is; and one that
    has come back often and still gets nowhere.

    Args:
        advanced: an epoch or a run was completed since the job was last started.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= PATIENCE and not advanced:
        return (
            f"The job has been started {restarts + 1} times and this time has not completed an "
            "epoch, so it is not requeued: give it a longer --time"
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
    return f"Job {job} goes back into the queue and on from the last epoch."


def _answer(words: list[str]) -> str:
    """What a command prints."""
    process = _start(words)
    try:
        answer, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise UserError(f"`{shlex.join(words)}` has not answered in {SECONDS} s", 1) from None
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
        raise UserError(f"There is no `{words[0]}` on the path, as Slurm needs it") from None
