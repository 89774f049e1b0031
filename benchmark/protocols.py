"""A protocol is a list of runs: which trainings and evaluations make a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import BadInput, check_name

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"

# Methods in the order in which a table shows them; any other comes after these, by name.
METHODS = ["ZeroshotCLIP", "CoOp", "CoCoOp", "VPT", "IVLP", "MaPLe", "UPT", "PLOT", "MMP", "ALIGN"]

# These learn nothing: they are tested like the others but leave no prompts to load.
UNTRAINED = {"ZeroshotCLIP"}

# The column that a base-to-new run fills, and the folder that CoOp's scripts gave it.
BASE2NEW_FOLDERS = {"base": "train_base", "new": "test_new"}


@dataclass(frozen=True)
class Run:
    """One call of train.py: a training (which ends in a test), or the evaluation of another's.

    `dataset` and `config` are names of files in configs/; `needs` is the training run whose
    prompts an evaluation loads; `part` is the column of the table that the accuracy fills.
    """

    trainer: str
    dataset: str
    config: str
    seed: int
    shots: int
    subsample: str
    part: str
    folder: Path
    eval_only: bool = False
    needs: "Run | None" = None

    def __str__(self) -> str:
        return f"{self.trainer} on {self.dataset}, seed {self.seed}, {self.part}"


def base2new(
    output: Path,
    datasets: Iterable[str],
    trainers: Iterable[str],
    seeds: Iterable[int],
    shots: int,
    config: str | None = None,
) -> list[Run]:
    """Train and test on the base classes, then test on the new ones.

    Seeds come before trainers: the first seed of every method is there early, and with it an
    idea of how long the rest takes.
    """
    trainers = list(trainers)
    configs = {
        (dataset, trainer): config_name(trainer, dataset, "base2new", config)
        for dataset in datasets
        for trainer in trainers
    }
    runs = []
    for seed in seeds:
        for (dataset, trainer), name in configs.items():
            what = (trainer, dataset, name, seed, shots)
            base = Run(*what, "base", "base", base2new_folder(output, "base", *what))
            new = Run(
                *what, "new", "new", base2new_folder(output, "new", *what), eval_only=True,
                needs=None if trainer in UNTRAINED else base,
            )  # fmt: skip
            runs += [base, new]
    return runs


def base2new_folder(
    output: Path, part: str, trainer: str, dataset: str, config: str, seed: int, shots: int
) -> Path:
    """Where such a run writes; the same names as in CoOp's scripts."""
    method = Path(dataset, f"shots_{shots}", trainer, config, f"seed{seed}")
    return output / "base2new" / BASE2NEW_FOLDERS[part] / method


def base2new_on_disk(output: Path) -> list[Run]:
    """The base-to-new runs that have a folder in `output`, whoever started them."""
    runs = []
    for part, name in BASE2NEW_FOLDERS.items():
        for folder in (output / "base2new" / name).glob("*/shots_*/*/*/seed*"):
            dataset, shots, trainer, config, seed = folder.parts[-5:]
            shots, seed = shots.removeprefix("shots_"), seed.removeprefix("seed")
            if shots.isdecimal() and seed.isdecimal():
                what = (trainer, dataset, config, int(seed), int(shots))
                runs.append(Run(*what, part, part, folder, eval_only=part == "new"))
    return runs


def check_names(datasets: Iterable[str], trainers: Iterable[str]) -> None:
    """Raise BadInput unless every data set and every trainer has its config files."""
    for dataset in datasets:
        known = (path.stem for path in (CONFIGS / "datasets").glob("*.yaml"))
        check_name("data set", dataset, known)
    for trainer in trainers:
        known = (path.name for path in (CONFIGS / "trainers").iterdir() if path.is_dir())
        check_name("trainer", trainer, known)


def config_name(trainer: str, dataset: str, protocol: str, asked: str | None) -> str:
    """The name of the trainer's config file: as asked, or by the data set, or by the protocol."""
    name = asked or ("emoji" if dataset.startswith("emoji") else protocol)
    known = (path.stem for path in (CONFIGS / "trainers" / trainer).glob("*.yaml"))
    return check_name(f"config of {trainer} for {dataset}", name, known)


def dataset_name(dataset: str) -> str | None:
    """The DATASET.NAME in the data set's config file; None when there is no such file."""
    path = CONFIGS / "datasets" / f"{dataset}.yaml"
    if not path.is_file():
        return None
    try:
        return (yaml.safe_load(path.read_text(encoding="utf-8")) or {})["DATASET"]["NAME"]
    except (yaml.YAMLError, KeyError, TypeError):
        raise BadInput(f"{path} does not say DATASET: NAME") from None
