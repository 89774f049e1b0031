"""The executor of this machine: several runs side by side, each in a process of its own."""

import contextlib
import os
import time
from dataclasses import dataclass, field

from ..protocols.base import Run
from ..report.results import COMMAND, FAILED, Outcome
from .child import Child, open_console
from .engine import Engine, command
from .locks import check_free, hold
from .machine import cores
from .progress import Progress

TICK = 0.1  # seconds between two looks at the children


@dataclass
class Local:
    """Does runs on this machine.

    Args:
        jobs: runs at once.
        gpus: names of GPUs, of which each run gets one in turn; empty without any.
    """

    jobs: int = 1
    gpus: list[str] = field(default_factory=list)

    def __post_init__(self):
        self._children: dict[int, Child] = {}  # by slot: a run that starts takes the first free

    @property
    def threads(self) -> int:
        """Threads for each run: an equal share of the cores, whatever else is running."""
        return max(1, cores() // self.jobs)

    def execute(self, engine: Engine, progress: Progress) -> list[Outcome]:
        """Do all that is to be done; the outcomes of all runs, in their order.

        Raises:
            Locked: another process writes one of the folders.
            KeyboardInterrupt: as ever; no child is left running.
        """
        for run in engine.todo:
            check_free(run)
        waiting = list(engine.todo)
        progress.begin(len(engine.runs) - len(waiting), len(engine.runs))
        try:
            while waiting or self._children:
                waiting = self._start_all(waiting, engine, progress)
                for slot, child in list(self._children.items()):
                    if child.ended():
                        del self._children[slot]
                        self._end(child, engine, progress)
                children = list(self._children.values())
                seconds, complete = engine.remaining(children)
                progress.tick(children, seconds / self.jobs, complete)
                time.sleep(TICK if children else 0)
        finally:
            progress.end()
            self._stop()
        return [engine.outcomes[run] for run in engine.runs]

    def _start_all(self, waiting: list[Run], engine: Engine, progress: Progress) -> list[Run]:
        """Start what there is room for; the runs that go on waiting."""
        still = []
        for run in waiting:
            blocked = engine.blocked(run)
            if blocked:
                engine.finish(blocked)
                progress.finished(blocked)
            elif len(self._children) < self.jobs and engine.ready(run):
                self._start(run, engine, progress)
            else:
                still.append(run)
        return still

    def _start(self, run: Run, engine: Engine, progress: Progress) -> None:
        resume = engine.resumes(run)
        slot = min(set(range(self.jobs)) - set(self._children))
        try:
            self._children[slot] = self._launch(run, engine, resume, slot)
        except OSError as error:
            outcome = engine.judge(run, str(error))
            engine.finish(outcome)
            progress.finished(outcome)
        else:
            progress.started(run, resume)

    def _launch(self, run: Run, engine: Engine, resume: bool, slot: int) -> Child:
        environment = {}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(hold(run))
            console = stack.enter_context(open_console(run))
            engine.clear(run, resume)
            console.write(f"{COMMAND}{engine.said(run)}\n")
            words = command(run, engine.settings, resume)
            child = Child(run, words, environment, console, lock)
            stack.pop_all()  # the child's from here on
        return child

    def _end(self, child: Child, engine: Engine, progress: Progress) -> None:
        """Enter what a child that has ended leaves."""
        outcome = engine.judge(child.run, child.failure())
        if outcome.problem is None:
            child.close()
        else:
            child.close(f"{FAILED}{outcome.problem.removeprefix('failed: ')}")
        engine.finish(outcome, child.seconds)
        progress.finished(outcome)

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
