"""The executor that submits runs as Slurm jobs, and waits for them on request."""

import os
import secrets
import shlex
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import held, read_file, write_whole

from ...protocols.base import Run
from ...protocols.configs import ROOT
from ...records import RESULTS, Outcome, failure
from ..child import Pace, last_epoch
from ..engine import Engine
from ..progress import Progress
from .arrays import LOGS, Array, dry_run, plan, relative, script
from .book import Book
from .commands import USUAL_MOST, Task, most_tasks, sbatch, squeue
from .site import Site

LOOKS = (1.0, 15.0)  # seconds between two looks at the queue: first, and at most
LATE = 3  # looks, after a job has left the queue, before a missing record counts as a failure


@dataclass
class Slurm:
    """Submits runs to Slurm.

    Args:
        output: the output folder.
        name: the prefix of job names.
        words: the arguments of `python -m` in a job; `--only` with its runs is added.
        site: options, set-up and grouping of jobs.
    """

    output: Path
    name: str
    words: list[str]
    site: Site = field(default_factory=Site)

    @property
    def headline(self) -> str:
        """A short description of how runs are done."""
        options = shlex.join(self.site.options) or "no options"
        return f"in Slurm jobs of {self.site.per_job} ({options})"

    def execute(self, engine: Engine, progress: Progress) -> list[Outcome]:
        """Submit all runs that are to be done and not queued, and wait until all have ended.

        Raises:
            UserError: Slurm refuses.
        """
        if engine.todo:
            self.submit(engine)
        try:
            _Watch(self, engine, progress).until_done()
        except KeyboardInterrupt:
            print("The jobs stay in the queue; use scancel to end them.", file=sys.stderr)
            raise
        return [engine.outcomes[run] for run in engine.runs]

    def submit(self, engine: Engine) -> tuple[int, int, int]:
        """Submit all runs that are to be done and not queued.

        Returns:
            The numbers of runs that were queued already, of runs submitted now, and of calls of
            sbatch.

        Raises:
            UserError: Slurm refuses, or a file cannot be written; jobs submitted before remain.
        """
        if not has_slurm():
            raise UserError(
                "`sbatch` is not on the PATH: call this where Slurm's commands are installed (a "
                "login node), or leave out --slurm"
            )
        done = 0
        try:
            (self.output / LOGS).mkdir(parents=True, exist_ok=True)
            with held(self.output / LOGS / ".lock", patience=60) as alone:
                if not alone:
                    raise UserError(
                        f"Another launcher is submitting runs of {self.output}: rerun when it is "
                        "done"
                    )
                book = Book(self.output)
                queued = self._queued(engine, book)
                jobs: dict[Array, str] = {}
                for array in self._plan(engine, queued, most_tasks()):
                    jobs[array] = self._submit(array, book, jobs)
                    done += len(array.runs)
        except (OSError, UserError) as error:
            if isinstance(error, OSError):
                error = UserError(
                    f"{self.output} cannot be written ({error.strerror}): correct this and rerun"
                )
            if not done:
                raise error from None
            raise UserError(f"{error} ({done} runs were submitted before this)", 1) from None
        return len(queued), done, len(jobs)

    def dry_run(self, engine: Engine) -> str:
        """Return what `submit` would do as a bash program; works without Slurm, too."""
        queued: dict[Run, Task] = {}
        most = USUAL_MOST
        if has_slurm():
            try:
                queued, most = self._queued(engine, Book(self.output)), most_tasks()
            except UserError as error:
                print(f"{error}: runs in the queue are not known", file=sys.stderr)
        arrays = self._plan(engine, queued, most)
        named = enumerate(arrays, 1)
        return dry_run(
            [(array, self._script(array, f"{self.name}-{n}")) for n, array in named], self.output
        )

    def _queued(self, engine: Engine, book: Book) -> dict[Run, Task]:
        """Return the tasks that wait or run, by run."""
        tasks = book.tasks(squeue())
        found = {run: tasks.get(relative(run, self.output)) for run in engine.todo}
        return {run: task for run, task in found.items() if task and not task.ended}

    def _plan(self, engine: Engine, queued: dict[Run, Task], most: int) -> list[Array]:
        todo = [run for run in engine.todo if run not in queued]
        return plan(todo, queued, self.site.per_job, most)

    def _script(self, array: Array, name: str) -> str:
        python = "python" if self.site.environment else sys.executable
        command = [python, "-m", *self.words]
        return script(array, name, command, self.output, self.site, Path.cwd(), ROOT)

    def _submit(self, array: Array, book: Book, jobs: dict[Array, str]) -> str:
        """Submit one array; return the job's id."""
        name = f"{self.name}-{secrets.token_hex(4)}"
        path = self.output / LOGS / f"{name}.sh"
        write_whole(path, self._script(array, name))
        for run in array.runs:  # corrupt records, and those of runs that need a repeated one
            (run.folder / RESULTS).unlink(missing_ok=True)
        try:
            after = array.after
            job = sbatch(path, jobs[after] if isinstance(after, Array) else after)
        except UserError:
            path.unlink()
            raise
        book.add(name, array)
        for run in array.runs:  # the tables and `status` find runs by their folders
            run.folder.mkdir(parents=True, exist_ok=True)
        return job


@dataclass
class Distant:
    """The progress of a run in a job, with the attributes that `Progress` needs."""

    run: Run
    latest: str
    left: float | None
    seconds: float


class _Watch:
    """Waits for runs in the queue, and enters their outcomes."""

    def __init__(self, slurm: Slurm, engine: Engine, progress: Progress):
        self.slurm, self.engine, self.progress = slurm, engine, progress
        self.book = Book(slurm.output)
        self.gone: dict[Run, int] = {}  # looks since the job left the queue
        self.since: dict[Run, float] = {}
        self.paces: defaultdict[Run, Pace] = defaultdict(Pace)

    def until_done(self) -> None:
        """Wait until every run has an outcome."""
        runs = self.engine.runs
        left = list(self.engine.todo)
        pause, longest = LOOKS
        self.progress.begin(len(runs) - len(self.engine.todo), len(runs))
        try:
            while left:
                running = self._look()
                at_once = max(1, len(running))
                self.progress.tick(running, *self.engine.remaining(running, at_once))
                left = [run for run in left if run not in self.engine.outcomes]
                time.sleep(pause if left else 0)
                pause = min(1.2 * pause, longest)
        finally:
            self.progress.end()

    def _look(self) -> list[Distant]:
        """Enter the outcomes of runs that have ended; return those that are running."""
        try:
            tasks = self.book.tasks(squeue())
        except UserError as error:  # a controller that is being restarted
            print(error, file=sys.stderr)
            return []
        running = []
        for run in self.engine.todo:
            if run in self.engine.outcomes:
                continue
            task = tasks.get(relative(run, self.slurm.output))
            outcome = self._outcome(run, task)
            if outcome:
                self.engine.finish(outcome)
                self.progress.finished(outcome)
            elif task and task.state == "RUNNING":
                running.append(self._distant(run))
        return running

    def _outcome(self, run: Run, task: Task | None) -> Outcome | None:
        """Return the outcome of a run; None while it waits or runs."""
        if (run.folder / RESULTS).exists():
            return self.engine.judge(run, None)
        if task and not task.ended:
            self.gone.pop(run, None)
            return None
        blocked = self.engine.blocked(run)
        self.gone[run] = self.gone.get(run, 0) + 1
        if blocked or self.gone[run] < LATE:
            return blocked
        why = failure(run)
        if why:
            return Outcome(run, problem=why)
        entry = self.book.entries[relative(run, self.slurm.output)]
        return Outcome(run, problem=f"failed: {ending(entry, task)}")

    def _distant(self, run: Run) -> Distant:
        since = self.since.setdefault(run, time.monotonic())
        seconds = time.monotonic() - since
        latest, fraction = last_epoch(run)
        self.paces[run].see(seconds, fraction)
        return Distant(run, latest, self.paces[run].left(seconds), seconds)


def ending(entry, task: Task | None) -> str:
    """Return why a job has ended without a record, in one sentence."""
    try:
        lines = read_file(entry.log).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line.strip(" *") for line in reversed(lines) if line.strip(" *")), "")
    state = f" ({task.state}, {task.reason})" if task else ""
    if said:
        return f"its job has ended{state}: {said} (see {entry.log})"
    return (
        f"its job has ended before it wrote anything{state}: it was cancelled, or its node cannot "
        f"access {entry.output}"
    )


def has_slurm() -> bool:
    """Return True if Slurm's commands are on the PATH."""
    return shutil.which("sbatch") is not None


def inside_job() -> bool:
    """Return True if this process is in a Slurm job."""
    return "SLURM_JOB_ID" in os.environ
