"""The executor that submits runs as Slurm job arrays; each task does a training and its tests.

A run is submitted if the queue has no job for it and its folder, read after the queue, has no new
record: a job that ends between these two looks leaves one.
"""

import json
import os
import re
import secrets
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.prompting.errors import UserError, need
from trainers.prompting.storage.files import hold_lock, write_whole

from ...protocols.base import Run
from ...protocols.configs import ROOT
from ...records import RESULTS, Outcome, failure
from ..engine import Engine
from ..progress import Progress
from .queue import BOOK, LOGS, Entry, ask, ending, read_book, read_queue, relative
from .site import Site

NOTICE = 120  # seconds before the time limit at which a job gets a signal to end
LOOKS = (1.0, 15.0)  # seconds between two looks at the queue: first, and at most
LATE = 3  # looks, after a job has left the queue, before a missing record counts as a failure
USUAL_MOST = 1000  # most tasks of an array, by Slurm's default


def plan(left: list[Run], busy: Collection[Run], per_job: int, most: int) -> list[list[list[Run]]]:
    """Return arrays of tasks of runs; a run whose training is busy is left for a later call.

    In `left`, each run comes after the one that it needs; those of `busy` are in the queue.
    `per_job` trainings share a task, each with its tests; an array has at most `most` tasks.
    """
    groups, busy = defaultdict(list), set(busy)
    for run in left:
        if run not in busy and run.needs not in busy:
            groups[run.needs or run].append(run)
    return batches([sum(part, []) for part in batches(list(groups.values()), per_job)], most)


def batches(items: Sequence, size: int) -> list[list]:
    """Split items into lists of `size`; the last may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


@dataclass
class Slurm:
    """Submits runs to Slurm, `per_job` trainings in a job.

    `name` is the prefix of job names. `words` are the arguments of `python -m` in a job, to which
    `--only` with its runs is added.
    """

    output: Path
    name: str
    words: list[str]
    site: Site
    per_job: int = 1

    @property
    def headline(self) -> str:
        """A short description of how runs are done."""
        return f"in Slurm jobs ({' '.join(self.site.options) or 'no options'})"

    def execute(self, engine: Engine, progress: Progress) -> None:
        """Submit what is not queued, and wait for all runs; raises UserError if Slurm refuses."""
        progress.done, progress.total = len(engine.runs) - len(engine.runs_left), len(engine.runs)
        try:
            while engine.runs_left:  # a second time for runs whose training was in the queue
                busy, submitted = self.submit(engine)
                self._wait({*busy, *submitted}, engine, progress)
        except KeyboardInterrupt:
            print("The jobs stay in the queue; use scancel to end them.", file=sys.stderr)
            raise

    def submit(self, engine: Engine) -> tuple[list[Run], list[Run]]:
        """Submit the runs that are not queued and need no training that is queued.

        Returns:
            The runs that are in the queue or have just ended, and those submitted now.
        """
        (self.output / LOGS).mkdir(parents=True, exist_ok=True)
        with hold_lock(self.output / LOGS / ".lock", patience=60) as alone:
            need(
                alone,
                f"Another launcher is submitting runs of {self.output}: rerun when it is done",
            )
            busy, arrays = self._plan(engine)
            # corrupt records, and those of repeated trainings
            for run in set(engine.runs_left).difference(busy):
                (run.folder / RESULTS).unlink(missing_ok=True)
            for tasks in arrays:
                self._submit(tasks, engine)
        return busy, [run for tasks in arrays for task in tasks for run in task]

    def dry_run(self, engine: Engine) -> str:
        """Return the scripts that `submit` would submit; works without Slurm, too."""
        try:
            _, arrays = self._plan(engine)
        except UserError as error:
            print(f"Runs that are queued are listed, too: {error}", file=sys.stderr)
            arrays = plan(engine.runs_left, (), self.per_job, USUAL_MOST)
        return "\n".join(self._script(self.name, tasks) for tasks in arrays)

    def _plan(self, engine: Engine) -> tuple[list[Run], list[list[list[Run]]]]:
        """Return the runs that are in the queue or have just ended, and arrays of the others."""
        sizes = re.findall(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.M)
        queue = read_queue(self.output)
        live = {folder for folder, task in queue.items() if not task.has_ended}
        busy = [r for r in engine.runs_left if relative(r, self.output) in live or engine.news(r)]
        most = max(1, int(sizes[0]) - 1) if sizes else USUAL_MOST
        return busy, plan(engine.runs_left, busy, self.per_job, most)

    def _script(self, name: str, tasks: list[list[Run]]) -> str:
        """Return the bash script of an array."""
        log = str(self.output / LOGS / name).replace("%", "%%")
        options = [f"--job-name={name}", f"--array=0-{len(tasks) - 1}", f"--output={log}_%a.out"]
        options += ["--open-mode=append", "--requeue", f"--signal=B:USR1@{NOTICE}"]
        folders = [shlex.join(relative(run, self.output) for run in runs) for runs in tasks]
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {shlex.quote(word)}" for word in options),
            *(f"#SBATCH {line}" for line in self.site.options),
            *self.site.setup,
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            'case "$SLURM_ARRAY_TASK_ID" in',
            *(f"{index}) runs=({names}) ;;" for index, names in enumerate(folders)),
            "esac",
            "# `exec`, so that Slurm's signals reach the launcher",
            f'exec {shlex.join([self.site.python, "-m", *self.words])} --only "${{runs[@]}}"',
        ]
        return "\n".join(lines) + "\n"

    def _submit(self, tasks: list[list[Run]], engine: Engine) -> None:
        """Submit one array, and enter it into the book."""
        name, folder = f"{self.name}-{secrets.token_hex(4)}", self.output / LOGS
        entries = {
            relative(run, self.output): Entry(name, index)
            for index, runs in enumerate(tasks)
            for run in runs
        }
        write_whole(folder / f"{name}.sh", self._script(name, tasks))
        write_whole(folder / BOOK, json.dumps(read_book(self.output) | entries))
        ask("sbatch", str(folder / f"{name}.sh"))
        for run in sum(tasks, []):  # the tables and `status` show runs that wait
            run.folder.mkdir(parents=True, exist_ok=True)
            engine.describe(run)

    def _wait(self, ours: set[Run], engine: Engine, progress: Progress) -> None:
        """Wait until these runs have an outcome."""
        gone: Counter[Run] = Counter()  # looks since the job left the queue
        last_counts, pause = "", LOOKS[0]
        while True:
            try:
                counts = self._look(ours, gone, engine, progress)
            except UserError as error:  # a controller that is being restarted
                counts = str(error)
            if all(run in engine.outcomes for run in ours):
                return
            if counts != last_counts:
                progress.say(counts)
            last_counts = counts
            time.sleep(pause)
            pause = min(1.2 * pause, LOOKS[1])

    def _look(self, ours: set[Run], gone: Counter[Run], engine: Engine, progress: Progress) -> str:
        """Enter the outcomes of runs that have ended, and return what is in the queue."""
        queue, states = read_queue(self.output), Counter[str]()
        for run in engine.runs_left:
            task = queue.get(relative(run, self.output))
            outcome = engine.news(run) or engine.outcome_if_blocked(run)
            if outcome is None and task and not task.has_ended:
                states[f"{task.state} ({task.reason})"] += 1
                gone[run] = 0
            elif outcome is None and run in ours:
                gone[run] += 1
                if gone[run] >= LATE:
                    entry = read_book(self.output)[relative(run, self.output)]
                    why = failure(run) or f"failed: {ending(entry, self.output, task)}"
                    outcome = Outcome(run, problem=why)
            if outcome:
                engine.finish(outcome)
                progress.report_end(outcome)
        return "In the queue: " + (
            ", ".join(f"{number} {state}" for state, number in states.items()) or "nothing"
        )
