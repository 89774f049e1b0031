"""The executor for this machine: several runs at once, each in a separate process."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import wait
from typing import NoReturn

from trainers.prompting.embedded import known_hashes
from trainers.prompting.errors import by_system

from ..protocols.base import Run
from ..records import COMMAND, CONSOLE, FAILED, Outcome
from .engine import Engine, command
from .locks import hold
from .progress import Progress
from .run_process import Child, write_line
from .start import warm_up

TICK = 0.1  # seconds between checks of the children while none ends
PATIENCE = 1.0  # seconds between checks of a run that another launcher is doing


@dataclass
class Local:
    """Does runs on this machine, `jobs` at once; `gpus`, if any, are assigned to them in turn."""

    jobs: int = 1
    gpus: list[str] = field(default_factory=list)

    def __post_init__(self):
        self._children: dict[int, Child] = {}  # by slot; a new run takes the first free one
        self._elsewhere: dict[Run, float] = {}  # runs of other launchers: time of the next check

    @classmethod
    def of_machine(cls, jobs: int | None) -> "Local":
        """Use all available GPUs; without `jobs`, one run for each, or for each core up to four.

        Small runs on the CPU are faster with one core each than one after the other on all cores.
        Memory sets the limit.
        """
        devices = gpus()
        return cls(jobs or len(devices) or min(cores(), 4), devices)

    @property
    def threads(self) -> int:
        """Threads for each run: OMP_NUM_THREADS if it is set, else an equal share of the cores."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        return int(given) if given.isdecimal() else max(1, cores() // self.jobs)

    @property
    def headline(self) -> str:
        """A short description of how runs are done."""
        return f"at once: {self.jobs}; threads for each: {self.threads}"

    def warm_up(self) -> None:
        """Prepare the start of runs, in the background."""
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))  # read with PyTorch
        warm_up()

    def execute(self, engine: Engine, progress: Progress) -> list[Outcome]:
        """Do all runs that are to be done; return the outcomes of all runs, in their order.

        If another launcher is doing a run, wait for it while doing the others.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after all children have been ended.
        """
        waiting = list(engine.todo)
        if waiting:
            self.warm_up()
        progress.begin(len(engine.runs) - len(waiting), len(engine.runs))
        try:
            while waiting or self._children:
                waiting = self._start_all(waiting, engine, progress)
                for slot, child in list(self._children.items()):
                    if child.poll():
                        del self._children[slot]
                        self._end(child, engine, progress)
                children = list(self._children.values())
                progress.tick(children)
                if children or waiting:
                    wait([child.sentinel for child in children], TICK)
        finally:
            progress.end()
            self._stop()
        return [engine.outcomes[run] for run in engine.runs]

    def _start_all(self, waiting: list[Run], engine: Engine, progress: Progress) -> list[Run]:
        """Start as many runs as there is room for; return those still waiting."""
        still = []
        for run in waiting:
            blocked = engine.outcome_if_blocked(run)
            if blocked:
                engine.finish(blocked)
                progress.report_end(blocked)
            else:
                possible = self._has_room(run) and engine.ready(run)
                if not possible or not self._start(run, engine, progress):
                    still.append(run)
        return still

    def _has_room(self, run: Run) -> bool:
        """Return True if a slot is free and, for a run of another launcher, a check is due."""
        now = time.monotonic()
        return len(self._children) < self.jobs and now >= self._elsewhere.get(run, now)

    def _start(self, run: Run, engine: Engine, progress: Progress) -> bool:
        """Start a run, or enter its outcome; return False while another launcher does it."""
        try:
            with contextlib.ExitStack() as stack:
                lock = hold(run)
                if lock is None:
                    if run not in self._elsewhere:
                        progress.elsewhere(run)
                    self._elsewhere[run] = time.monotonic() + PATIENCE
                    return False
                stack.enter_context(lock)
                outcome = engine.news(run)
                if outcome is None:
                    resume = engine.resumes(run)
                    slot = min(set(range(self.jobs)) - set(self._children))
                    self._children[slot] = self._launch(run, engine, resume, slot, lock)
                    stack.pop_all()  # the child owns the lock now
                    progress.report_start(run, resume)
                    return True
        except OSError as error:
            outcome = engine.judge(run, str(by_system(error) or error))
        engine.finish(outcome)
        progress.report_end(outcome)
        return True

    def _launch(
        self, run: Run, engine: Engine, resume: bool, slot: int, lock: contextlib.ExitStack
    ) -> Child:
        environment = known_hashes()
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        engine.prepare(run, resume)
        write_line(run.folder / CONSOLE, f"{COMMAND}{engine.shown_command(run)}")
        words = command(run, engine.settings, resume)[1:]
        return Child(run, lock, environment, train, words)

    def _end(self, child: Child, engine: Engine, progress: Progress) -> None:
        """Enter the outcome of a child that has ended."""
        outcome = engine.judge(child.run, child.failure())
        why = outcome.problem
        child.close(why and f"{FAILED}{why.removeprefix('failed: ')}")
        engine.finish(outcome)
        progress.report_end(outcome)

    def _stop(self) -> None:
        for child in self._children.values():
            child.interrupt()
        try:
            for child in self._children.values():
                child.kill()
        except KeyboardInterrupt:  # a second Ctrl-C: at once
            for child in self._children.values():
                child.kill(grace=0)
        for child in self._children.values():
            child.close()
        self._children.clear()


def cores() -> int:
    """Return the number of cores that this process may use; in a Slurm job, those of the job."""
    mine = os.environ.get("SLURM_CPUS_ON_NODE", "")
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(here, int(mine)) if mine.isdecimal() else here


def gpus() -> list[str]:
    """Return the GPUs that runs may use, as named by CUDA_VISIBLE_DEVICES; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        visible = ",".join(answer.stdout.split())
    devices = [name.strip() for name in visible.split(",")]
    return [name for name in devices if name not in ("", "-1")]


def train(words: list[str]) -> NoReturn:
    """Be train.py with these words in its command line."""
    sys.argv = words
    sys.exit(import_module("train").run(words[1:]))
