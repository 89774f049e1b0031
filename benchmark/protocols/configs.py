"""The config files of data sets and trainers: which one a run takes, and what is in it."""

import importlib.util
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from recipe.configs import read_keys
from trainers.prompting.errors import UserError, check_name, nearest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

ANY = math.inf
IMAGE_FOLDER = "image_folder"  # the user's own images; a name sets several sets apart
WEIGHTS = (".pt", ".bin", ".safetensors")  # a backbone that is a file


class Rule(NamedTuple):
    """Runs on these data sets, of these trainers, with at most so many shots, take this config.

    Data sets and trainers are patterns apart by spaces; `*` stands for any.
    """

    datasets: str
    trainers: str
    most_shots: float
    config: str

    def fits(self, dataset: str, trainer: str, shots: int) -> bool:
        """Whether a run is one of these."""
        return (
            any(fnmatchcase(dataset, pattern) for pattern in self.datasets.split())
            and any(fnmatchcase(trainer, pattern) for pattern in self.trainers.split())
            and shots <= self.most_shots
        )


# What holds in every protocol, before its own rules.
RULES = [
    Rule("emoji*", "*", ANY, "emoji"),
    Rule("*", "ZeroshotCLIP", ANY, "base2new"),
    Rule("*", "CLAP TipAdapter TipAdapterF", ANY, "few_shot"),  # which know no other classes
]


@dataclass(frozen=True)
class TrainerConfigs:
    """Finds the config file of a run: as asked for, or by the rules of its protocol.

    Args:
        asked: the name of a file of the trainer, the path of any file that ends in `.yaml`, or
            that of a folder (with a slash) which has a folder for each trainer with one file in it.
        plugins: the plug-ins of train.py; a method that one of them brings may have its config
            files in a folder of its name beside the plug-in.
        backbone: the CLIP that is asked for, in place of the config's.
    """

    asked: str | None = None
    plugins: tuple[str, ...] = ()
    backbone: str | None = None

    def name(self, file: Path) -> str:
        """What tells a method's settings in folders and tables: the config, and the backbone."""
        if not self.backbone:
            return file.stem
        backbone = self.backbone.replace("/", "-")
        if Path(self.backbone).suffix in WEIGHTS:
            backbone = Path(self.backbone).stem
        return f"{file.stem}@{backbone}"

    def find(self, rules: list[Rule], trainer: str, dataset: str, shots: int) -> Path:
        """The config file of a run.

        Raises:
            UserError: there is no such file.
        """
        if self._asked_path:
            if not self._asked_path.is_file():
                raise UserError(f"--config: there is no file '{self._asked_path}'")
            return self._asked_path.absolute()
        if self.asked and Path(self.asked).name != self.asked:
            return only_file(Path(self.asked) / trainer)
        fitting = (rule.config for rule in RULES + rules if rule.fits(dataset, trainer, shots))
        name = self.asked or next(fitting)
        folders = [folder / trainer for folder in self._folders()]
        files = {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}
        if name in files:
            return files[name]
        if not files and not self.plugins:  # the methods of a plug-in only train.py knows
            known = known_trainers()
            raise UserError(
                f"There is no trainer '{trainer}': {nearest(trainer, known)}; a new one needs "
                f"config files in {folders[0]}, or --config FILE.yaml"
            )
        kind = f"config of {trainer} for {dataset}"
        if self.asked:
            check_name(kind, name, files)
        others = f" (there are: {', '.join(sorted(files))})" if files else ""
        raise UserError(
            f"There is no {kind} '{name}'{others}: write {folders[0] / name}.yaml, or name a file "
            "by --config FILE.yaml"
        )

    @property
    def _asked_path(self) -> Path | None:
        return Path(self.asked) if self.asked and self.asked.endswith(".yaml") else None

    def _folders(self) -> list[Path]:
        """The folders that have a folder for each trainer."""
        beside = (plugin_folder(name) for name in self.plugins)
        return [CONFIGS / "trainers", *(folder for folder in beside if folder)]


def only_file(folder: Path) -> Path:
    """The one config file in a folder.

    Raises:
        UserError: there is none, or several.
    """
    files = sorted(folder.glob("*.yaml"))
    if len(files) != 1:
        told = ", ".join(file.name for file in files) or "none"
        raise UserError(f"--config: '{folder}' must have one config file, but has {told}")
    return files[0].absolute()


def plugin_folder(name: str) -> Path | None:
    """The folder of a plug-in, a Python file or a module; None when that cannot be found.

    Of a module it is the folder that holds it: nothing is imported but the packages around it.
    """
    if name.endswith(".py"):
        return Path(name).absolute().parent
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # train.py says what is wrong with it
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).absolute().parent


def keys_in(path: Path) -> dict[str, object]:
    """As `read_keys`; a file that many runs share is read once."""
    if not path.is_file():
        return read_keys(path)  # which says what is wrong
    return dict(_keys_in(path, path.stat().st_mtime_ns))


@cache
def _keys_in(path: Path, modified: int) -> dict[str, object]:
    return read_keys(path)


def known_trainers() -> list[str]:
    """The trainers that have config files in the repository."""
    return sorted(path.name for path in (CONFIGS / "trainers").iterdir() if path.is_dir())


def check_datasets(datasets: Iterable[str]) -> None:
    """Raise a UserError where a data set has no config file, or a name that cannot be."""
    known = [path.stem for path in (CONFIGS / "datasets").glob("*.yaml")]
    for dataset in datasets:
        file, named, name = dataset.partition("=")
        check_name("data set", file, known)
        if named and file != IMAGE_FOLDER:
            raise UserError(f"{dataset}: only {IMAGE_FOLDER} takes a name")
        if named and not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(
                f"'{name}' cannot name a data set: use letters, digits, '_', '-' and '.'"
            )
        if name in known:
            raise UserError(f"'{name}' is the name of another data set: give the images their own")


def dataset_file(dataset: str) -> Path:
    """The config file of a data set; `image_folder=NAME` is that of `image_folder`."""
    return CONFIGS / "datasets" / f"{dataset.partition('=')[0]}.yaml"


def dataset_name(dataset: str) -> str | None:
    """The DATASET.NAME in the data set's config file; None when there is no such file."""
    path = dataset_file(dataset)
    if not path.is_file():
        return None
    name = keys_in(path).get("DATASET.NAME")
    if name is None:
        raise UserError(f"{path} does not say DATASET: NAME")
    return str(name)
