"""The command `python -m benchmark tune`: choose among settings by runs on validation images.

It writes a table of all settings of a method, and a config file of the best.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import yaml

from recipe.configs import prompts_for, read_keys, read_pairs
from trainers.prompting.building.by_run import nest, plain_key
from trainers.prompting.errors import UserError, need

from ..cli import Parser, write_output
from ..launch.checks import SPLIT, on_validation
from ..protocols.base import Run, shots_text
from ..protocols.launches import Launch, read_launch
from ..protocols.places import find
from ..records import Outcome, as_recorded, from_folder, value_at
from ..report.render import as_text
from ..report.tables import Cell, Table


def main(argv: list[str]) -> int:
    """Run `python -m benchmark tune OUTPUT`; return 1 if no setting of a method can be chosen."""
    parser = Parser(
        prog="python -m benchmark tune",
        description="Choose the best settings among the runs of --vary with TEST.SPLIT val. "
        "scripts/tune.sh does these, and calls this.",
    )
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("output/tune"),
        help="output folder of the runs (default: %(default)s)",
    )  # fmt: skip
    output = parser.parse_args(argv).output.absolute()
    found = find(output)
    for note in found.notes:
        print(note, file=sys.stderr)
    chosen = [(choice, at) for at, runs in found.runs.items() for choice in choices_among(runs)]
    if not chosen:
        raise UserError(
            f"'{output}' has no runs of --vary on validation images: do some with "
            "`bash scripts/tune.sh`, or add TEST.SPLIT val to a protocol"
        )
    print("\n\n".join(as_text(choice.table()) for choice, _ in chosen))
    written = [write_choice(*one) for one in chosen]
    for path in filter(None, written):
        print(path, file=sys.stderr)
    if first := next(filter(None, written), None):
        folder = first.parent.parent
        print(f"Use with --config: one of these files, or {folder} for all", file=sys.stderr)
    return int(not all(written))


@dataclass
class Trial:
    """One setting of a method, with the outcomes of its runs."""

    outcomes: list[Outcome]
    launch: Launch  # of one of them
    lacking: str = ""  # runs that other settings have

    @property
    def name(self) -> str:
        """The setting in words."""
        return ", ".join(f"{key} {value}" for key, value in self.varied.items())

    @property
    def varied(self) -> dict[str, str]:
        """The values of --vary, by key."""
        return read_pairs(self.launch.run.opts)

    @property
    def problems(self) -> list[str]:
        """The problems of its runs; a setting with any is not chosen."""
        failed = [f"{o.run}: {o.problem}" for o in self.outcomes if o.problem]
        return failed + [f"{self.name}: {self.lacking}"] * bool(self.lacking)

    @property
    def accuracies(self) -> dict[str, float | None]:
        """Mean validation accuracy (%) over the seeds, by data set; None where a run failed."""
        by_dataset: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            by_dataset[outcome.run.dataset].append(outcome)
        return {
            dataset: None if any(o.problem for o in mine) else mean(o.accuracy for o in mine)
            for dataset, mine in by_dataset.items()
        }

    @property
    def average(self) -> float | None:
        """The mean over the data sets; None if any run failed, or is lacking."""
        if self.lacking:
            return None
        values = [accuracy for accuracy in self.accuracies.values() if accuracy is not None]
        return mean(values) if len(values) == len(self.accuracies) else None


@dataclass
class Choice:
    """All settings of a method, the best first; settings with a failed run come last."""

    trials: list[Trial]

    def __post_init__(self):
        # The sort is stable: of equal settings, the first by its name wins.
        self.trials.sort(key=comparable, reverse=True)

    @property
    def run(self) -> Run:
        """A run of the method."""
        return self.trials[0].outcomes[0].run

    @property
    def best(self) -> Trial | None:
        """The chosen setting; None if every setting has a failed run."""
        return self.trials[0] if self.trials[0].average is not None else None

    @property
    def tie(self) -> str:
        """A sentence about other settings that are as good as the chosen one; empty without any."""
        best = self.best
        n = sum(comparable(trial) == comparable(best) for trial in self.trials) - 1 if best else 0
        have = "1 other has" if n == 1 else f"{n} others have"
        return f"{have} the same accuracy: the first by its name is taken." if n else ""

    @property
    def seeds(self) -> list[int]:
        """The seeds of each setting."""
        return sorted({o.run.seed for o in self.trials[0].outcomes})

    @property
    def title(self) -> str:
        """The title of the table."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {' '.join(map(str, self.seeds))}"
        classes = f"{self.run.subsample} classes" if self.run.subsample != "all" else "all classes"
        return (
            f"{self.run.trainer} ({self.run.config}), tuned for "
            f"{self.run.protocol.name}: accuracy (%) on "
            f"validation images of {classes}, {shots_text(self.run.shots)}, {seeds}"
        )

    def table(self) -> Table:
        """Return the table, with a line for each setting."""
        head, lines = ["Setting", *self.trials[0].accuracies], []
        for trial in self.trials:
            lines.append([Cell(trial.name), *map(accuracy_cell, trial.accuracies.values())])
        if len(head) > 2:
            head.append("Average")
            for line, trial in zip(lines, self.trials, strict=True):
                line.append(accuracy_cell(trial.average))
        chosen = f"Chosen: {self.best.name}." if self.best else "None is chosen: each has failed."
        chosen += f" {self.tie}" * bool(self.tie)
        problems = [problem for trial in self.trials for problem in trial.problems]
        return Table(self.title, head, lines, [chosen], problems)

    def record(self) -> dict:
        """Return the table as plain numbers."""
        return {
            "title": self.title,
            "settings": [
                {
                    "setting": trial.varied,
                    "accuracy": trial.accuracies,
                    "average": trial.average,
                    "problems": trial.problems,
                }
                for trial in self.trials
            ],
        }

    def config(self, best: Trial) -> str:
        """Return the method's config file with the best values and the settings of the command."""
        backbone, file = best.launch.backbone, best.launch.run.config_file
        chosen = prompts_for(backbone, file)
        if backbone:
            chosen["MODEL.BACKBONE.NAME"] = backbone
        shared = {key: value for key, value in best.launch.shared.items() if key != SPLIT}
        chosen |= best.varied | shared
        keys = read_keys(file)
        # drop values for single data sets, since the choice is for all of them
        keys = {key: value for key, value in keys.items() if plain_key(key) not in chosen}
        keys |= {key: as_recorded(value) for key, value in chosen.items()}
        failed = sum(trial.average is None for trial in self.trials)
        comment = (
            f"# Chosen by `python -m benchmark tune` among {len(self.trials)} settings"
            + f" ({failed} failed)" * bool(failed)
            + f": {best.name} has {best.average:.2f}.\n"
            + f"# {self.tie}\n" * bool(self.tie)
            + f"# {self.title}; data sets: {', '.join(best.accuracies)}.\n"
        )
        return comment + yaml.safe_dump(nest(keys), sort_keys=False, allow_unicode=True)


def comparable(trial: Trial) -> float:
    """Return a setting's average for comparisons, without differences of rounding."""
    return -1.0 if trial.average is None else round(trial.average, 6)


def choices_among(runs: Iterable[Run]) -> list[Choice]:
    """Return the choice of each method among those of the runs that tune it.

    These are the runs of --vary on validation images. Otherwise as `choices`.
    """
    launches = [launch for run in runs if run.opts and (launch := read_launch(run.folder))]
    tried = [launch for launch in launches if on_validation(launch.shared)]
    return choices((from_folder(launch.run), launch) for launch in tried)


def choices(tried: Iterable[tuple[Outcome, Launch]]) -> list[Choice]:
    """Return the choice of each method, number of shots and protocol, in the order of the runs.

    Runs that were computed in another precision than most of their method and PREC count as failed,
    as do settings that lack runs which others have.
    """
    tried = list(tried)
    precisions: dict[tuple, Counter[str]] = defaultdict(Counter)
    for outcome, _ in tried:
        if precision := _precision(outcome):
            precisions[_method_and_precision(outcome)][precision] += 1
    groups: dict[tuple, dict[tuple, Trial]] = defaultdict(dict)
    for outcome, launch in tried:
        precision = _precision(outcome)
        if precision and precision != (
            usual := precisions[_method_and_precision(outcome)].most_common(1)[0][0]
        ):
            why = f"computed in {precision}, not in {usual} as most: "
            why += "delete its folder, and run it where those were"
            outcome = replace(outcome, result=None, problem=why)
        run = outcome.run
        group = groups[run.protocol, run.trainer, run.config, run.shots]
        group.setdefault(run.varied, Trial([], launch)).outcomes.append(outcome)
        first = next(iter(group.values()))
        need(
            _fixed_settings(launch) == _fixed_settings(first.launch),
            f"{run} and {first.outcomes[0].run} differ in settings that are not varied: choose "
            "among each in another output",
        )
    for group in groups.values():
        every = {place(o.run) for trial in group.values() for o in trial.outcomes}
        for trial in group.values():
            missing = sorted(every - {place(outcome.run) for outcome in trial.outcomes})
            trial.lacking = ", ".join(f"no run on {name}, seed {seed}" for name, seed in missing)
    return [Choice([*trials.values()]) for trials in groups.values()]


def _fixed_settings(launch: Launch) -> tuple:
    """Return the settings of a run that are not varied."""
    return launch.run.config_file, launch.backbone, launch.shared


def place(run: Run) -> tuple[str, int]:
    """Return the data set and the seed of a run."""
    return run.dataset, run.seed


def _method_and_precision(outcome: Outcome) -> tuple:
    """Return the method and its PREC, which may be what is tuned."""
    trainer = outcome.run.trainer
    nodes = value_at(outcome.result, "config.TRAINER")
    own = [name for name in nodes or () if name.replace("_", "").upper() == trainer.upper()]
    return trainer, value_at(nodes, f"{own[0]}.PREC") if own else None


def _precision(outcome: Outcome) -> str | None:
    return (outcome.result or {}).get("precision")


def write_choice(choice: Choice, output: Path) -> Path | None:
    """Write the table, and the config of a chosen setting; return its path; raises OSError."""
    run = choice.run
    name = f"{run.config}_tuned_{run.shots}"
    folder = output / run.protocol.name / "chosen" / run.trainer
    write_output(folder / f"{name}.json", json.dumps(choice.record(), indent=1) + "\n")
    path = folder / f"{name}.yaml"
    if choice.best is None:
        path.unlink(missing_ok=True)  # of an earlier call
        return None
    write_output(path, choice.config(choice.best))
    return path


def accuracy_cell(accuracy: float | None) -> Cell:
    """Return an accuracy (%) as a cell of a table."""
    return Cell("failed") if accuracy is None else Cell(f"{accuracy:.2f}", accuracy)
