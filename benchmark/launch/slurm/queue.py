"""Slurm's commands, and the book of an output folder: which job does which run.

The book is written before the job is submitted, and names jobs by random names, so a launcher that
is killed leaves no job that is not in the book.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from trainers.prompting.errors import UserError, in_short

from ...protocols.base import Run

LOGS = "slurm"  # folder below the output for scripts, the jobs' logs and the book
BOOK = "book.json"
PATIENCE = 3  # requeues without progress before a job is given up

# States that squeue shows for jobs that have ended lately; it says COMPLETING until they have.
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT", "REVOKED", "PREEMPTED", "LAUNCH_FAILED",
)  # fmt: skip


class Task(NamedTuple):
    """A task of a job array in the queue, which shows it for some minutes after its end."""

    job: str  # its number in the array included: 12_3
    state: str
    reason: str

    @property
    def has_ended(self) -> bool:
        """True if the task has ended, in whatever way."""
        return self.state in ENDED


class Entry(NamedTuple):
    """The last job of a run, in the book."""

    name: str  # of the job array; no other has it
    number: int  # of the task


def ask(*words: str) -> str:
    """Run one of Slurm's commands and return what it prints; raises UserError if that fails."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"`{words[0]}` is not on the PATH: call this where Slurm's commands are installed (a "
            "login node), or leave out --slurm"
        ) from None
    if done.returncode:
        errors = " / ".join(done.stderr.strip().splitlines())
        raise UserError(f"`{shlex.join(words)}` failed: {errors}", 1)
    return done.stdout


def requeue(advanced: bool) -> str:
    """Put the job of this process back into the queue; return a sentence on the result.

    A job is not requeued if it was cancelled, if Slurm requeues it itself, or if it has been
    requeued several times and no epoch or run was completed since (`advanced`).
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= PATIENCE and not advanced:
        return (
            f"The job has been started {restarts + 1} times and did not complete an epoch this "
            "time, so it is not requeued: give it a longer --time"
        )
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    try:
        shown = ask("scontrol", "show", "job", os.environ["SLURM_JOB_ID"])
        state = "".join(re.findall(r"JobState=(\w+)", shown)[:1])
        if state not in ("RUNNING", "TIMEOUT"):
            return f"Job {job} is {state}, so it is not requeued."
        ask("scontrol", "requeue", job)
    except UserError as error:
        return f"Job {job} cannot be requeued: {error}"
    return f"Job {job} is requeued and resumes from the last epoch."


def read_book(output: Path) -> dict[str, Entry]:
    """Return the last job of each run, by the folder of the run below the output."""
    path = output / LOGS / BOOK
    try:
        book = json.loads(path.read_bytes().decode())
        return {folder: Entry(str(name), int(i)) for folder, (name, i) in book.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' cannot be read ({in_short(error)}): remove it if no job of '{output}' is in "
            "the queue",
            exit_code=1,
        ) from None


def read_queue(output: Path) -> dict[str, Task]:
    """Return the tasks that wait, run, or ended lately, by the folder of the run."""
    book = read_book(output)
    form = "%j|%F|%K|%T|%r"
    listing = ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", form) if book else ""
    tasks = {}
    for line in listing.splitlines():
        name, job, index, state, reason = line.strip().split("|", 4)
        tasks[name, index] = Task(f"{job}_{index}", state, reason)
    by_folder = {
        folder: tasks.get((entry.name, str(entry.number))) for folder, entry in book.items()
    }
    return {folder: task for folder, task in by_folder.items() if task}


def relative(run: Run, output: Path) -> str:
    """Return the name of a run for `--only`: its folder below the output."""
    return run.folder.relative_to(output).as_posix()


def ending(entry: Entry, output: Path, task: Task | None) -> str:
    """Return why a job has ended without a record, in one sentence."""
    log = output / LOGS / f"{entry.name}_{entry.number}.out"
    try:
        lines = log.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    last_line = next((line.strip(" *") for line in reversed(lines) if line.strip(" *")), "")
    state = f" ({task.state}, {task.reason})" if task else ""
    if last_line:
        return f"its job has ended{state}: {last_line} (see {log})"
    return (
        f"its job has ended before it wrote anything{state}: it was cancelled, or its node cannot "
        f"access {output}"
    )
