"""Keep track of the runs of a protocol: which are done, which are to do, and their outcomes."""

import shlex
import sys
from dataclasses import dataclass

from recipe.configs import FEATURES, prompts_for, read_pairs
from trainers.prompting.building.by_run import for_run
from trainers.prompting.checkpoint.identity import BY_PROCESS, RUN
from trainers.prompting.errors import UserError

from .. import records
from ..protocols.base import Run
from ..protocols.configs import ROOT, Roots, dataset_file, dataset_name, features_of, keys_in
from ..protocols.launches import read_launch, write_launch
from ..records import RESULTS, BadResult, Outcome
from . import data
from .run_process import last_command


@dataclass(frozen=True, eq=False)
class Settings(Roots):
    """The settings that all runs of one command share."""

    backbone: str | None = None
    plugins: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()

    def features_of(self, run: Run) -> str:
        """Return the file of features of a run; empty if it is on images."""
        return self.features.get(run.dataset) or features_of(run.dataset)

    def expected_values(self, run: Run) -> dict:
        """Return the values that the config in the run's record must have, by dotted key."""
        dataset = dataset_name(run.dataset) or ""
        keys = for_run(keys_in(run.config_file), dataset, run.shots, run.subsample)
        keys |= prompts_for(self.backbone, run.config_file)
        if self.backbone:
            keys["MODEL.BACKBONE.NAME"] = self.backbone
        if self.features_of(run):  # which decides the backbone
            keys.pop("MODEL.BACKBONE.NAME", None)
        return keys | read_pairs(run.opts + self.opts)


def command(run: Run, settings: Settings, resume: bool = False) -> list[str]:
    """Return the command line of a run, with absolute paths."""
    words = [sys.executable, ROOT / "train.py"]
    for plugin in settings.plugins:
        words += ["--plugin", plugin]
    if root := settings.given_root(run.dataset):
        words += ["--root", root]
    words += ["--seed", run.seed, "--trainer", run.trainer]
    words += ["--dataset-config-file", dataset_file(run.dataset)]
    words += ["--config-file", run.config_file]
    words += ["--output-dir", run.folder]
    if settings.backbone:
        words += ["--backbone", settings.backbone]
    if run.needs:
        words += ["--model-dir", run.needs.folder]
    if run.eval_only:
        words += ["--eval-only"]
    if resume:
        words += ["--resume", run.folder]
    words += ["--shared"] * any(key.startswith("TRAINER.") for key in settings.opts[::2])
    words += ["DATASET.NUM_SHOTS", run.shots, "DATASET.SUBSAMPLE_CLASSES", run.subsample]
    if file := settings.features.get(run.dataset):
        words += [FEATURES, file]
    return [str(word) for word in (*words, *run.opts, *settings.opts)]


class Engine:
    """Keeps track of a list of runs, in which each run comes after the one that it needs.

    A finished run is not repeated, unless the run that it needs must be done (again). An unfinished
    run resumes from its checkpoint if the same command wrote it, else it starts anew. A failed run
    stops only those that need it. An executor (`Local` or `Slurm`) does the runs. `now` is
    what records are compared with, read anew without it.
    """

    def __init__(self, runs: list[Run], settings: Settings):
        self.runs = runs
        self.settings = settings
        self.outcomes: dict[Run, Outcome] = {}
        self.todo: dict[Run, None] = {}  # in order
        self.notes: list[str] = []
        self._now = data.Present()
        self._edited: list[Run] = []  # finished runs of other code
        self._seen = {run: records.stamp(run) for run in runs}
        for run in runs:
            self._look(run)
        if self._edited:
            self.notes.append(
                f"{len(self._edited):,} finished runs are of other code, such as {self._edited[0]}:"
                " tables say so; delete their folders to do them anew"
            )

    def _look(self, run: Run) -> None:
        """Enter a run as finished or to do; raises UserError if its folder has another's record."""
        if self._seen[run] is not None:
            self._check_launch(run)
        try:
            result = records.read_record(run.folder)
        except BadResult as error:
            self.notes.append(f"{error}: the run counts as unfinished")
            result = None
        if result is None:
            self.todo[run] = None
            return
        needed = run.needs in self.todo
        why = None if needed else self._misfit(run, result)
        if why:
            from_folders = dataset_name(run.dataset) == data.IMAGES
            raise UserError(
                f"{run.folder} holds the results of another run ({why}): "
                + "give the images a name (image_folder=NAME), " * from_folders
                + "choose another --output, or remove that folder"
            )
        if needed:
            self.todo[run] = None
            return
        if records.edited_since(result):
            self._edited.append(run)
        self.finish(Outcome(run, result))

    def _check_launch(self, run: Run) -> None:
        """Refuse the folder of a run that holds the record of another, or of 0.6 (UserError)."""
        found = read_launch(run.folder)
        if found is None or found.place != run.place:
            what = f"another run ({found})" if found else f"a run without {RUN}, as of 0.6"
            raise UserError(
                f"{run.folder} holds {what}: choose another --output, or remove that folder"
            )

    def _misfit(self, run: Run, result: dict) -> str | None:
        """Return how a record differs from what the run asks for; None if it does not."""
        file, root = self.settings.features_of(run), self.settings.root_of_set(run.dataset)
        asked = records.asked_of(run, self.settings.expected_values(run))
        return records.misfit(result, data.present(asked, run, result, file, root, self._now))

    def resumes(self, run: Run) -> bool:
        """Return True if the run resumes from a checkpoint in its folder."""
        begun = any(run.folder.glob("*/checkpoint"))
        if run.eval_only or not begun:
            return False
        return last_command(run) in (None, self.shown_command(run))

    def shown_command(self, run: Run) -> str:
        """Return the run's command as in console.txt: without Python's path and --resume."""
        return shlex.join(command(run, self.settings)[1:])

    def prepare(self, run: Run, resume: bool) -> None:
        """Write run.json, and delete files of an earlier run and records that depend on this.

        Checkpoints are deleted unless the run resumes, since a trainer would resume from them by
        itself. Records are always deleted: corrupt ones, and those of runs that need this one.

        Raises:
            OSError: a file cannot be written or deleted.
        """
        self.describe(run)
        if not resume:
            for mark in run.folder.glob("*/checkpoint"):
                for checkpoint in mark.parent.glob("model*"):
                    if checkpoint.is_file():
                        checkpoint.unlink()
                mark.unlink()
        for stale in (run, *(other for other in self.todo if other.needs == run)):
            (stale.folder / RESULTS).unlink(missing_ok=True)

    def describe(self, run: Run) -> None:
        """Write run.json into the folder of a run; raises OSError."""
        write_launch(run)

    def outcome_if_blocked(self, run: Run) -> Outcome | None:
        """Return the outcome of a run that cannot be done because the run it needs failed."""
        needed = self.outcomes.get(run.needs) if run.needs else None
        if needed is None or needed.problem is None:
            return None
        return Outcome(run, problem=f"not run: it needs {run.needs}")

    def news(self, run: Run) -> Outcome | None:
        """Return the outcome of a run that another launcher has finished in the meantime."""
        if records.stamp(run) in (None, self._seen[run]):
            return None
        return self.judge(run, None)

    def has_advanced(self, run: Run, since: float) -> bool:
        """Return True if the run has completed an epoch, or has ended, since a system time."""
        marks = [*run.folder.glob("*/checkpoint"), run.folder / RESULTS]
        return any(mark.stat().st_mtime >= since for mark in marks if mark.exists())

    @property
    def runs_left(self) -> list[Run]:
        """The runs to do that lack an outcome."""
        return [run for run in self.todo if run not in self.outcomes]

    def only(self, chosen: list[Run]) -> None:
        """Restrict the runs to do to these; all others are unfinished."""
        kept = set(chosen)
        for run in self.todo:
            if run not in kept:
                self.finish(Outcome(run, problem="unfinished: no results yet"))
        self.todo = {run: None for run in self.todo if run in kept}

    def ready(self, run: Run) -> bool:
        """Return True if the run that this one needs has an outcome."""
        return run.needs is None or run.needs in self.outcomes

    def judge(self, run: Run, failure: str | None) -> Outcome:
        """Return the outcome of a run that has ended: its record if it fits, or why it failed."""
        if failure is not None:
            return Outcome(run, problem=f"failed: {failure}")
        try:
            result = records.read_record(run.folder)
        except BadResult as error:
            return Outcome(run, problem=f"failed: {error}")
        if result is None:
            return Outcome(run, problem=f"failed: it ended without {RESULTS}")
        why = self._misfit(run, result)
        if why:
            cause = f"; {BY_PROCESS}" * why.startswith("the images' hash")
            return Outcome(run, problem=f"failed: its results are of another run ({why}){cause}")
        return Outcome(run, result)

    def finish(self, outcome: Outcome) -> None:
        """Enter the outcome of a run."""
        self.outcomes[outcome.run] = outcome
