"""What a protocol is: its runs and their folders, its options, and the table that it ends in."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainers.prompting.errors import UserError

from ..cli import whole_number, words
from .configs import Rule, TrainerConfigs, config_keys, option_pairs

# What an untrained method reaches depends on neither seed nor shots: in most protocols one run
# with this seed and these shots stands for all.
UNTRAINED_DRAW = (1, 0)

# The folders below that of a data set which tell the runs of all methods apart.
METHOD = "shots_{shots}/{trainer}/{config}"

# Options that several protocols have.
TRAINERS = {
    "--trainers": {
        "type": words,
        "default": "ZeroshotCLIP CoOp ALIGN",
        "help": "names in configs/trainers or of a plug-in, in one argument "
        "(default: '%(default)s')",
    }
}
SHOTS = {
    "--shots": {
        "type": whole_number,
        "default": 16,
        "help": "images per class (default: %(default)s)",
    }
}


def learns_nothing(trainer: str) -> bool:
    """Whether a trainer is known beforehand to learn nothing: as in CoOp, by its name alone.

    Of a run that is done its results tell (`num_params`). A method that learns nothing under
    another name is merely run more often than it need be.
    """
    return trainer.startswith("Zeroshot")


class Part(NamedTuple):
    """One kind of run of a protocol.

    Attributes:
        folder: its place below the output, in which the braces name fields of the run.
        column: that of the table which its accuracy fills.
        subsample: the classes, `all`, `base` or `new`.
        eval_only: it tests the prompts of another run.
    """

    folder: str
    column: str = "accuracy"
    subsample: str = "all"
    eval_only: bool = False


class Plot(NamedTuple):
    """A picture of a protocol's rows, one panel a data set.

    Attributes:
        name: of the files.
        x: `shots`, or the setting of an ablation that is varied alone.
        y: the column that is drawn.
        x_label, y_label: of the axes.
        sentence: what is seen, for those who cannot see it.
    """

    name: str
    x: str
    y: str
    x_label: str
    y_label: str
    sentence: str


@dataclass(frozen=True)
class Run:
    """One call of train.py: a training (which ends in a test), or the evaluation of another's.

    `dataset` (which is tested) is the name of a file in configs/datasets, `config` that of
    `config_file`, which is not known of runs that are found on disk. `part` is one of the
    protocol's, `needs` the training whose prompts an evaluation loads, `source` the data set
    trained on in the transfer protocols. `variant` and `opts`, KEY VALUE pairs of this run alone,
    tell the settings of an ablation apart.
    """

    protocol: "Protocol"
    part: str
    trainer: str
    dataset: str
    config: str
    seed: int
    shots: int
    subsample: str
    folder: Path
    eval_only: bool = False
    config_file: Path | None = None
    needs: "Run | None" = None
    source: str = ""
    variant: str = ""
    opts: tuple[str, ...] = ()

    def __str__(self) -> str:
        transferred = self.source not in ("", self.dataset)
        said = [f"{self.trainer} on {self.dataset}" + f" from {self.source}" * transferred]
        if self.protocol.across == "shots":
            said.append(shots_text(self.shots))
        if self.variant:
            said.append(self.variant)
        said.append(f"seed {self.seed}")
        if len(self.protocol.parts) > 1 and not transferred:
            said.append(self.part)
        return ", ".join(said)


class Protocol(ABC):
    """Everything that tells one protocol from the others; adding one is adding such an object.

    Attributes:
        name: of the command, the script, and the folder of its table.
        title: above its tables.
        summary, description: what it does, in the list of commands and in its own --help.
        parts: its kinds of runs, by name.
        columns: the numbers of a row with their heads; `h` is computed from `base` and `new`.
        rules: which config file a run takes.
        datasets: those that are run when none is named; "" when these depend on the source.
        targets: the data sets usually tested, by the source trained on.
        options: of its command line; for each flag, the arguments of `add_argument`.
        untrained_once: one run of an untrained method stands for all seeds and shots.
        new_classes: prompts are tested on other classes than those they were trained on.
        across: what stands side by side in a table: `columns`, or the rows' `shots` or `dataset`.
        by_variant: the lines of a table are the settings of an ablation, not methods.
        costs: a table tells what training took.
        table_title: of one table; the braces name fields of a row.
        variant_notes: what to know about the settings that an ablation varies.
        published: the file in report/published_csv with numbers to compare with.
        plot: what is drawn.
    """

    name: str
    title: str
    summary: str
    description: str
    parts: dict[str, Part]
    columns: dict[str, str] = {"accuracy": "Accuracy"}
    rules: list[Rule]
    datasets: str = "emoji"
    targets: dict[str, list[str]] = {}
    options: dict[str, dict] = TRAINERS | SHOTS
    untrained_once: bool = True
    new_classes: bool = False
    across: str = "columns"
    by_variant: bool = False
    costs: bool = False
    table_title: str
    variant_notes: dict[str, str] = {}
    published: str | None = None
    plot: Plot | None = None

    @abstractmethod
    def plan(
        self,
        output: Path,
        datasets: list[str],
        seeds: Iterable[int],
        configs: TrainerConfigs,
        **options,
    ) -> list[Run]:
        """The runs that are asked for; a run comes after the one that it needs.

        Seeds come before trainers: the first seed of every method is there early, and with it an
        idea of how long the rest takes.

        Args:
            output: the folder below which all runs have theirs.
            datasets: those that the user names, or the usual ones.
            seeds: of the training images and the initialisation.
            configs: finds the config files.
            options: the values of this protocol's own options.

        Raises:
            UserError: something that is asked for is not there.
        """

    def on_disk(self, output: Path) -> list[Run]:
        """The runs that have a folder in `output`, whoever started them."""
        return [run for part in self.parts for run in self.found(output, part)]

    def found(self, output: Path, part: str) -> list[Run]:
        """The runs that have a folder in the place of this part."""
        place = self.parts[part].folder
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", place))
        runs = []
        for folder in sorted(output.glob(re.sub(r"\{\w+\}", "*", place))):
            names = pattern.fullmatch(folder.relative_to(output).as_posix()).groupdict()
            if names["shots"].isdecimal() and names["seed"].isdecimal():
                names |= {"shots": int(names["shots"]), "seed": int(names["seed"])}
                names.setdefault("dataset", names.get("source"))
                runs.append(self.run(output, part, **names))
        return runs

    def run(self, output: Path, part: str, **names) -> Run:
        """One run; `names` are further fields, among them all that its folder needs."""
        _, _, subsample, eval_only = self.parts[part]
        return Run(
            protocol=self,
            part=part,
            folder=output / self.parts[part].folder.format(**names),
            subsample=subsample,
            eval_only=eval_only,
            **names,
        )

    def method(
        self, configs: TrainerConfigs, trainer: str, dataset: str, seed: int, shots: int
    ) -> dict:
        """The fields of a run that tell how a method is trained, on which draw of the images."""
        if self.untrained_once and learns_nothing(trainer):
            seed, shots = UNTRAINED_DRAW
        file = configs.find(self.rules, trainer, dataset, shots)
        names = {"trainer": trainer, "config": file.stem, "config_file": file}
        return names | {"seed": seed, "shots": shots}


def base_and_new(protocol: Protocol, output: Path, **names) -> list[Run]:
    """Training and test on the base classes, and the test on the new ones."""
    base = protocol.run(output, "base", **names)
    needs = None if learns_nothing(base.trainer) else base
    return [base, protocol.run(output, "new", **names, needs=needs)]


def check_classes(runs: Iterable[Run], opts: tuple[str, ...]) -> None:
    """
    Raises:
        UserError: prompts that are made for some classes would be tested on others.
    """
    others = [run for run in runs if run.needs and run.protocol.new_classes]
    for trainer, file in {(run.trainer, run.config_file) for run in others}:
        keys = config_keys(file) | option_pairs(opts)
        node = f"TRAINER.{trainer.upper()}"
        # words start one context for all classes
        if str(keys.get(f"{node}.CSC")) == "True" and not keys.get(f"{node}.CTX_INIT"):
            raise UserError(
                f"{trainer} with a context for each class (CSC) cannot be tested on other classes "
                f"than those it was trained on: set {node}.CSC False"
            )


def shots_text(number: int) -> str:
    """A number of shots in words."""
    return "1 shot" if number == 1 else f"{number} shots"
