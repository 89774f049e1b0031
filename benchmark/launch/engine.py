"""The engine: does a protocol's runs in the order that their dependencies allow."""

import os
import shlex
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from ..errors import BadInput
from ..protocols.configs import CONFIGS, ROOT, config_keys, pairs
from ..protocols.runs import Run
from ..report import results
from ..report.results import COMMAND, FAILED, RESULTS, BadResult, Outcome
from .child import Child, check_unlocked, last_command, open_console
from .machine import cores
from .progress import Progress

TICK = 0.1  # seconds between two looks at the children


@dataclass(frozen=True)
class Settings:
    """What all runs of one call share."""

    root: Path | None = None
    backbone: str | None = None
    opts: tuple[str, ...] = ()
    jobs: int = 1
    gpus: list[str] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Threads for each run: an equal share of the cores, whatever else is running."""
        return max(1, cores() // self.jobs)

    def asked(self, run: Run) -> dict:
        """What the config in the run's results must hold, by dotted keys."""
        flags = {"MODEL.BACKBONE.NAME": self.backbone} if self.backbone else {}
        return config_keys(run.trainer, run.config) | flags | pairs(run.opts + self.opts)


def command(run: Run, settings: Settings, resume: bool = False) -> list[str]:
    """The command line of a run, every path in it absolute."""
    words = [sys.executable, ROOT / "train.py"]
    if settings.root:
        words += ["--root", settings.root]
    words += ["--seed", run.seed, "--trainer", run.trainer]
    words += ["--dataset-config-file", CONFIGS / "datasets" / f"{run.dataset}.yaml"]
    words += ["--config-file", CONFIGS / "trainers" / run.trainer / f"{run.config}.yaml"]
    words += ["--output-dir", run.folder]
    if settings.backbone:
        words += ["--backbone", settings.backbone]
    if run.needs:
        words += ["--model-dir", run.needs.folder]
    if run.eval_only:
        words += ["--eval-only"]
    if resume:
        words += ["--resume", run.folder]
    words += ["DATASET.NUM_SHOTS", run.shots, "DATASET.SUBSAMPLE_CLASSES", run.subsample]
    return [str(word) for word in (*words, *run.opts, *settings.opts)]


class Engine:
    """Executes a list of runs, in which a run comes after the one that it needs.

    A finished run is not repeated, unless the run that it needs must be done (again). An
    unfinished one goes on from its checkpoint if the same command wrote that, else from the
    start. A failed one stops only those that need it.

    Raises:
        BadInput: the folder of a run holds the results of one with other settings.
    """

    def __init__(self, runs: list[Run], settings: Settings):
        self.runs = runs
        self.settings = settings
        self.outcomes: dict[Run, Outcome] = {}
        self.todo: list[Run] = []
        self.notes: list[str] = []
        self._children: dict[int, Child] = {}  # by slot: a run that starts takes the first free
        self._durations = defaultdict(list)
        for run in runs:
            self._look(run)

    def _look(self, run: Run) -> None:
        """Find out whether a run is finished, and if not whether it can be done."""
        try:
            result = results.read(run)
        except BadResult as error:
            self.notes.append(f"{error}: taken as unfinished")
            result = None
        if run.needs in self.todo or result is None:
            self.todo.append(run)
        elif why := results.misfit(run, result, self.settings.asked(run)):
            raise BadInput(
                f"{run.folder} holds the results of another run ({why}): "
                "choose another --output, or remove that folder"
            )
        else:
            self.outcomes[run] = Outcome(run, result)
            self._durations[_kind(run)].append(self.outcomes[run].seconds)

    def resumes(self, run: Run) -> bool:
        """Whether the run goes on from a checkpoint in its folder."""
        if run.eval_only or not any(run.folder.glob("*/checkpoint")):
            return False
        return last_command(run) in (None, self._told(run))

    def _told(self, run: Run) -> str:
        """The run's command as console.txt holds it: whichever Python, resumed or not."""
        return shlex.join(command(run, self.settings)[1:])

    def execute(self, progress: Progress) -> list[Outcome]:
        """Do all that is to be done; the outcomes of all runs, in their order.

        Raises:
            Locked: another process writes one of the folders.
            KeyboardInterrupt: as ever; no child is left running.
        """
        for run in self.todo:
            check_unlocked(run)
        waiting = list(self.todo)
        progress.begin(len(self.runs) - len(waiting), len(self.runs))
        try:
            while waiting or self._children:
                for run in list(waiting):
                    if run.needs in self.outcomes and self.outcomes[run.needs].problem:
                        problem = f"not run: it needs {run.needs}"
                        self._finish(run, Outcome(run, problem=problem), progress)
                        waiting.remove(run)
                    elif len(self._children) == self.settings.jobs:
                        break
                    elif run.needs is None or run.needs in self.outcomes:
                        waiting.remove(run)
                        self._start(run, progress)
                for slot, child in list(self._children.items()):
                    if child.ended():
                        del self._children[slot]
                        self._finish(child.run, self._judge(child), progress)
                progress.tick(list(self._children.values()), *self.remaining())
                time.sleep(TICK if self._children else 0)
        finally:
            progress.end()
            self._stop()
        return [self.outcomes[run] for run in self.runs]

    def _start(self, run: Run, progress: Progress) -> None:
        resume = self.resumes(run)
        slot = min(set(range(self.settings.jobs)) - set(self._children))
        try:
            self._children[slot] = self._launch(run, resume, slot)
        except OSError as error:
            self._finish(run, Outcome(run, problem=f"failed: {error}"), progress)
        else:
            progress.started(run, resume)

    def _launch(self, run: Run, resume: bool, slot: int) -> Child:
        environment = {}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(self.settings.threads)
        if gpus := self.settings.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        console = open_console(run)
        try:
            if not resume:
                _clear(run)
            for stale in (run, *(other for other in self.todo if other.needs == run)):
                (stale.folder / RESULTS).unlink(missing_ok=True)  # corrupt, or of other prompts
            console.write(f"{COMMAND}{self._told(run)}\n")
            return Child(run, command(run, self.settings, resume), environment, console)
        except OSError:
            console.close()
            raise

    def _judge(self, child: Child) -> Outcome:
        """What a child that has ended leaves: results that fit its run, or a problem."""
        run, problem, result = child.run, child.failure(), None
        if problem is None:
            try:
                result = results.read(run)
                problem = "it ended without results.json" if result is None else None
            except BadResult as error:
                problem = str(error)
        if result is not None and (why := results.misfit(run, result, self.settings.asked(run))):
            result, problem = None, f"its results are of {why}"
        child.close(f"{FAILED}{problem}" if problem else None)
        if problem:
            return Outcome(run, problem=f"failed: {problem}")
        self._durations[_kind(run)].append(child.seconds)
        return Outcome(run, result)

    def _finish(self, run: Run, outcome: Outcome, progress: Progress) -> None:
        self.outcomes[run] = outcome
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

    def remaining(self) -> tuple[float, bool]:
        """Seconds until all is done, and whether that counts every run that is left.

        A method that has not run yet is not counted: nobody knows how long it takes.
        """
        running = {child.run: child for child in self._children.values()}
        guesses = {kind: mean(seconds) for kind, seconds in self._durations.items()}
        for child in running.values():
            if child.fraction:
                guesses.setdefault(_kind(child.run), child.seconds / child.fraction)
        total, complete = 0.0, True
        for run in self.todo:
            if run in self.outcomes:
                continue
            child = running.get(run)
            guess = guesses.get(_kind(run))
            if child and child.fraction:
                guess = child.seconds / child.fraction
            if guess is None:
                complete = False
            else:
                total += max(0.0, guess - child.seconds) if child else guess
        return total / self.settings.jobs, complete


def _kind(run: Run) -> tuple:
    """Runs that take about the same time."""
    return run.trainer, run.dataset, run.shots, run.variant, run.eval_only


def _clear(run: Run) -> None:
    """Take away a partial run's checkpoints, from which a trainer would go on unasked."""
    for mark in run.folder.glob("*/checkpoint"):
        for checkpoint in mark.parent.glob("model*"):
            if checkpoint.is_file():
                checkpoint.unlink()
        mark.unlink()
