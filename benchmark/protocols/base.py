"""What a protocol is: its runs and their folders, its options, and the table that it ends in."""

import fnmatch
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipe.configs import read_keys, read_pairs
from trainers.prompting.errors import UserError

from ..cli import from_one, words
from .configs import Rule, TrainerConfigs

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
        "type": from_one,
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
    """One kind of run of a protocol."""

    folder: str  # its place below the output; the braces name fields of the run
    column: str = "accuracy"  # that of the table which its accuracy fills
    subsample: str = "all"  # the classes: `all`, `base` or `new`
    eval_only: bool = False  # it tests the prompts of another run


class Plot(NamedTuple):
    """A picture of a protocol's rows.

    `kind` is `curves` (y against x, one panel a data set), `plane` (the same without lines between
    points), `targets` (the accuracy on each data set, one panel a source) or `cost` (H against what
    training takes).
    """

    name: str  # of the files
    x: str  # a column; of curves `shots`, or the setting of an ablation that is varied alone
    y: str  # a column
    x_label: str
    y_label: str
    sentence: str  # what is seen, for those who cannot see it
    kind: str = "curves"


@dataclass(frozen=True)
class Run:
    """One call of train.py: a training (which ends in a test), or the evaluation of another's.

    `dataset` (which is tested) is the name of a file in configs/datasets, `config` that of
    `config_file`, which is not known of runs that are found on disk, and of the backbone where one
    was asked for. `part` is one of the protocol's, `needs` the training whose prompts an
    evaluation loads, `source` the data set trained on in the transfer protocols. `variant` and
    `opts`, KEY VALUE pairs of this run alone, tell the settings of an ablation apart.
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
    config_file: Path = Path()
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
    """Everything that tells one protocol from the others; adding one is adding such an object."""

    name: str  # of the command, the script, and the folder of its table
    title: str  # above its tables
    summary: str  # what it does, in a few words
    parts: dict[str, Part]  # its kinds of runs, by name
    columns: dict[str, str] = {"accuracy": "Accuracy"}  # of a row; `h` comes from base and new
    rules: list[Rule]  # which config file a run takes
    datasets: str = "emoji"  # those run when none is named; "" when these depend on the source
    targets: dict[str, list[str]] = {}  # the data sets usually tested, by the source trained on
    options: dict[str, dict] = TRAINERS | SHOTS  # the arguments of `add_argument`, by the flag
    untrained_once: bool = True  # one run of an untrained method stands for all seeds and shots
    new_classes: bool = False  # prompts are tested on other classes than they were trained on
    across: str = "columns"  # side by side in a table: these, or the rows' `shots` or `dataset`
    by_variant: bool = False  # the lines of a table are settings of an ablation, not methods
    costs: bool = False  # a table tells what training took
    table_title: str  # of one table; the braces name fields of a row
    variant_notes: dict[str, str] = {}  # what to know about what an ablation varies
    plot: Plot | None = None
    cost_plot: Plot | None = None

    @abstractmethod
    def plan(
        self,
        output: Path,
        datasets: list[str],
        seeds: Iterable[int],
        configs: TrainerConfigs,
        *args: Any,  # none; with it a protocol may name its options
        **options: Any,
    ) -> list[Run]:
        """The runs that are asked for; a run comes after the one that it needs.

        Seeds come before trainers: the first seed of every method is there early, and with it an
        idea of how long the rest takes. `options` are the values of the protocol's own options.

        Raises:
            UserError: something that is asked for is not there.
        """

    def on_disk(self, output: Path, packed: Iterable[str] | None = None) -> list[Run]:
        """The runs that have a folder in `output`, whoever started them.

        Args:
            output: a folder, or the file of a pack.
            packed: the names of the folders in a pack.

        Raises:
            UserError: a folder cannot be read.
        """
        return [run for part in self.parts for run in self.found(output, part, packed)]

    def found(self, output: Path, part: str, packed: Iterable[str] | None = None) -> list[Run]:
        """The runs that have a folder in the place of this part; arguments as of `on_disk`."""
        place = self.parts[part].folder
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", place))
        if packed is None:
            packed = [folder.relative_to(output).as_posix() for folder in folders(output, place)]
        runs = []
        for found in filter(None, map(pattern.fullmatch, packed)):
            if found["shots"].isdecimal() and found["seed"].isdecimal():
                names: dict[str, Any] = found.groupdict()
                names |= {"shots": int(found["shots"]), "seed": int(found["seed"])}
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
        names = {"trainer": trainer, "config": configs.name(file), "config_file": file}
        return names | {"seed": seed, "shots": shots}


def folders(output: Path, place: str) -> list[Path]:
    """List what lies below `output` at a part's place, sorted; `glob` would pass over what is shut.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    found = [output]
    for pattern in re.sub(r"\{\w+\}", "*", place).split("/"):
        if "*" in pattern:
            names = [(folder, sorted(fnmatch.filter(listed(folder), pattern))) for folder in found]
            found = [folder / name for folder, inside in names for name in inside]
        else:
            found = [folder / pattern for folder in found]
    return found


def listed(folder: Path) -> list[str]:
    """The names in a folder; none where there is no such folder.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"'{folder}' cannot be read ({error.strerror}): change its rights, for there may be "
            "runs in it",
            exit_code=1,
        ) from None


def base_and_new(protocol: Protocol, output: Path, **names) -> list[Run]:
    """Training and test on the base classes, and the test on the new ones."""
    base = protocol.run(output, "base", **names)
    needs = None if learns_nothing(base.trainer) else base
    return [base, protocol.run(output, "new", **names, needs=needs)]


def check_classes(runs: Iterable[Run], opts: tuple[str, ...]) -> None:
    """Raise a UserError where prompts made for some classes would be tested on others."""
    others = [run for run in runs if run.needs and run.protocol.new_classes]
    for trainer, file in {(run.trainer, run.config_file) for run in others}:
        keys = read_keys(file) | read_pairs(opts)
        for key in [k for k, v in keys.items() if k.endswith(".CSC") and str(v) == "True"]:
            # words start one context for all classes
            if str(keys.get(key.replace(".CSC", ".CTX_INIT"), "")) in ("", "None", "False"):
                raise UserError(
                    f"{trainer} with a context for each class (CSC) cannot be tested on other "
                    f"classes than those it was trained on: set {key} False"
                )


def shots_text(number: int) -> str:
    """A number of shots in words."""
    return "1 shot" if number == 1 else f"{number} shots"
