"""Show the state of all runs of an output folder, and estimate the time that the rest takes."""

import shutil
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from trainers.prompting.errors import need, printable

from ..cli import Parser
from ..protocols.base import Run
from ..protocols.places import find
from ..records import CONSOLE, Outcome, from_folder, other_code
from .locks import is_held
from .run_process import last_state
from .slurm.queue import Entry, Task, ending, read_book, read_queue, relative

DONE, RUNNING, QUEUED, FAILED, MISSING = "done", "running", "queued", "failed", "not queued"


@dataclass(frozen=True)
class Status:
    """The state of one run.

    The outcome is judged by the run's folder only. `state` is DONE, RUNNING, QUEUED, FAILED or
    MISSING.
    """

    outcome: Outcome
    state: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome.run}: {self.state}{self.detail and f' ({self.detail})'}"


def main(argv: list[str]) -> None:
    """Run `python -m benchmark status OUTPUT`."""
    parser = Parser(prog="python -m benchmark status", description=__doc__)
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("output"),
        help="output folder of protocols (default: %(default)s)",
    )  # fmt: skip
    output = parser.parse_args(argv).output.absolute()
    found = find(output)
    states = [status for place, runs in found.runs.items() for status in statuses(place, runs)]
    for note in found.notes:
        print(note, file=sys.stderr)
    need(states, f"'{output}' contains no runs of protocols: check the path, or start one")
    for status in states:
        print(printable(status))
    count = Counter(status.state for status in states)
    counts = ", ".join(f"{number} {state}" for state, number in count.items())
    print(f"\n{len(states)} runs: {counts}. {remaining(states)}")


def statuses(output: Path, found: list[Run]) -> list[Status]:
    """Return the state of each run that was found in the output."""
    book = read_book(output)
    if book and not shutil.which("squeue"):
        print(
            "Slurm's commands are not available here: queued runs are shown as not queued.",
            file=sys.stderr,
        )
        book.clear()
    tasks = read_queue(output) if book else {}  # before the records
    busy: dict[str, Run] = {}  # the running run of each task, which does its runs one by one
    states = []
    for run in {run.folder: run for run in found}.values():
        name = relative(run, output)
        states.append(_status(run, output, book.get(name), tasks.get(name), busy))
    return states


def _status(
    run: Run, output: Path, entry: Entry | None, task: Task | None, busy: dict[str, Run]
) -> Status:
    outcome = from_folder(run)
    kind_, _, why = (outcome.problem or "").partition(": ")
    if outcome.problem is None:
        others = other_code(outcome.result or {})
        note = f", other code than the present: {', '.join(others)}" if others else ""
        return Status(outcome, DONE, f"{outcome.text}{note}")
    running = task is not None and task.state == "RUNNING"
    if kind_ != "unfinished" and (running or not task or task.has_ended):
        return Status(outcome, FAILED, f"{why}; see {run.folder / CONSOLE}")
    if task and running and busy.setdefault(task.job, run) is not run:
        return Status(outcome, QUEUED, f"job {task.job}, after another of that job")
    if running or (not task and is_held(run)):
        where = f"job {task.job}, " if task else ""
        return Status(outcome, RUNNING, f"{where}{last_state(run) or 'starting'}")
    if task and not task.has_ended:
        return Status(outcome, QUEUED, f"job {task.job}, {task.state}, {task.reason}")
    if entry:
        return Status(outcome, FAILED, ending(entry, output, task))
    return Status(outcome, MISSING, "no results yet")


def remaining(runs: list[Status]) -> str:
    """Return a sentence that estimates the time left, from the runs of each kind that are done."""
    left = [_kind(status.outcome.run) for status in runs if status.state != DONE]
    if not left:
        return "Nothing remains."
    took = defaultdict(list)
    for outcome in (status.outcome for status in runs if status.state == DONE):
        took[_kind(outcome.run)].append(outcome.seconds)
    seconds = [mean(took[kind]) for kind in left if kind in took]
    if not seconds:
        return "The time left is unknown: no similar run is done yet."
    unknown = len(left) - len(seconds)
    more = f", unknown for {unknown} without a similar run that is done" if unknown else ""
    return f"Time left: about {sum(seconds) / 3600:.2f} hours for {len(seconds)} runs{more}."


def _kind(run: Run) -> tuple:
    """Return a key that is equal for runs that take about the same time."""
    return run.trainer, run.dataset, run.config, run.opts, run.shots, run.eval_only
