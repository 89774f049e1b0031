"""The base class of protocols: runs and their folders, command-line options, and the table."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from recipe.configs import read_pairs

from ..cli import from_one, words
from .configs import Rule, TrainerConfigs, varied_name

# The accuracy of an untrained method depends on neither seed nor shots: one run with this seed, and
# in most protocols with this number of shots, counts for all.
UNTRAINED_DRAW = (1, 0)

# The folders below that of a data set, different for each method, config and number of shots.
METHOD = "shots_{shots}/{trainer}/{config}"

# Options that several protocols have.
TRAINERS = {
    "--trainers": {
        "type": words,
        "default": "ZeroshotCLIP CoOp MaPLe ALIGN",
        "help": "methods, by their folders in configs/trainers or from a plug-in, in one argument "
        "(default: '%(default)s')",
    }
}
SHOTS = {
    "--shots": {"type": from_one, "default": 16, "help": "images per class (default: %(default)s)"}
}


def learns_nothing(trainer: str) -> bool:
    """Return True if a trainer is known beforehand to learn nothing: its name begins with Zeroshot.

    The record of a finished run says so for certain (`num_params`). A method that learns nothing
    under another name is only run more often than necessary.
    """
    return trainer.startswith("Zeroshot")


class Part(NamedTuple):
    """One kind of run of a protocol."""

    folder: str  # the run folder, below the output; names in braces are fields of the run
    column: str = "accuracy"  # the column of the table that its accuracy fills
    subsample: str = "all"  # its classes: `all`, `base` or `new`
    eval_only: bool = False  # True if it tests the prompts of another run


class Plot(NamedTuple):
    """A plot of a protocol's rows.

    `kind` is `curves` (y against x, one panel for each data set) or `plane` (the same without lines
    between points).
    """

    name: str  # of the files
    x: str  # a column; for curves `shots`, or a setting that runs vary
    y: str  # a column
    x_label: str
    y_label: str
    sentence: str  # text alternative: describes the plot for readers who cannot see it
    kind: str = "curves"


@dataclass(frozen=True)
class Run:
    """One call of train.py: a training and its test, or the evaluation of another run's prompts."""

    protocol: "Protocol"
    part: str  # name of one of the protocol's parts
    trainer: str
    dataset: str  # name of a file in configs/datasets, the data set that is tested
    config: str  # name of the config file, followed by the backbone if one was asked for
    seed: int  # of training and of the draw of images
    shots: int  # training images per class
    subsample: str  # its classes: `all`, `base` or `new`
    folder: Path
    eval_only: bool = False
    config_file: Path = Path()
    needs: "Run | None" = None  # the training whose prompts an evaluation loads
    source: str = ""  # in transfer protocols, the data set trained on
    opts: tuple[str, ...] = ()  # KEY VALUE pairs of only this run

    @cached_property
    def place(self) -> str:
        """The planned folder, below the output."""
        config = self.config + (varied_name(read_pairs(self.opts)) if self.opts else "")
        return self.protocol.parts[self.part].folder.format(**vars(self) | {"config": config})

    @property
    def varied(self) -> tuple[tuple[str, float | str], ...]:
        """The last words of the keys of `opts`, sorted, with their values."""
        pairs = sorted(read_pairs(self.opts).items())
        return tuple((key.rpartition(".")[2], number_or_text(value)) for key, value in pairs)

    def __str__(self) -> str:
        transferred = self.source not in ("", self.dataset)
        details = [f"{self.trainer} on {self.dataset}" + f" from {self.source}" * transferred]
        if self.protocol.across == "shots":
            details.append(shots_text(self.shots))
        details += [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in self.varied]  # fmt: skip
        details.append(f"seed {self.seed}")
        if len(self.protocol.parts) > 1 and not transferred:
            details.append(self.part)
        return ", ".join(details)


class Protocol(ABC):
    """A protocol: plans runs and says how they make a table. A new protocol is a new subclass."""

    name: str  # of the command, the script, and the folder of its table
    title: str  # above its tables
    summary: str  # one line for --help
    parts: dict[str, Part]  # its kinds of runs, by name
    columns: dict[str, str] = {"accuracy": "Accuracy"}  # of a row; `h` comes from base and new
    rules: list[Rule]  # choose the config file of a run
    datasets: str = "emoji"  # the default; "" if the default depends on the source
    targets: dict[str, list[str]] = {}  # default targets of each source (transfer)
    options: dict[str, dict] = TRAINERS | SHOTS  # keyword arguments of `add_argument`, by option
    untrained_once: bool = True  # one run of an untrained method counts for all shots, too
    new_classes: bool = False  # prompts are tested on other classes than they were trained on
    several: bool = False  # of images with several labels
    across: str = "columns"  # side by side in a table: these, or the rows' `shots` or `dataset`
    costs: bool = False  # a table shows parameters, time and memory of training
    table_title: str  # of one table; names in braces are fields of a row
    plot: Plot | None = None
    note: str = ""  # a sentence below its tables

    @abstractmethod
    def plan(
        self,
        output: Path,
        datasets: list[str],
        seeds: Iterable[int],
        configs: TrainerConfigs,
        *args: Any,  # always empty; lets a subclass name its options as arguments
        **options: Any,
    ) -> list[Run]:
        """Return the runs to make; a run comes after the run that it needs.

        Seeds come before trainers, so that the first seed of every method is done early and shows
        how long the rest takes. Without `datasets`, the default ones are run; `options` are
        values of the protocol's own options, and `args` is always empty.
        """

    def run(self, output: Path, part: str, **names) -> Run:
        """Make a run; `names` are its other fields, including all that the folder's name needs."""
        _, _, subsample, eval_only = self.parts[part]
        more: dict[str, Any] = {"subsample": subsample, "eval_only": eval_only}
        run = Run(protocol=self, part=part, folder=output, **more, **names)
        return replace(run, folder=output / run.place)

    def method(
        self, configs: TrainerConfigs, trainer: str, dataset: str, seed: int, shots: int
    ) -> dict:
        """Return the fields of a run for a method, its config and its draw of training images."""
        if learns_nothing(trainer):
            seed, shots = UNTRAINED_DRAW[0], UNTRAINED_DRAW[1] if self.untrained_once else shots
        file = configs.find(self.rules, trainer, dataset, shots)
        names = {"trainer": trainer, "config": configs.name(file), "config_file": file}
        return names | {"seed": seed, "shots": shots}


def base_and_others(protocol: Protocol, output: Path, **names) -> list[Run]:
    """Return a training and test on the base classes, and tests on the protocol's other parts."""
    base = protocol.run(output, "base", **names)
    needs = None if learns_nothing(base.trainer) else base
    others = (part for part in protocol.parts if part != "base")
    return [base, *(protocol.run(output, part, **names, needs=needs) for part in others)]


def number_or_text(text: str) -> float | str:
    """Return the number that a text is, or else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def shots_text(number: int) -> str:
    """Return a number of shots as text."""
    if number < 0:
        return "all images"
    return "1 shot" if number == 1 else f"{number} shots"
