"""Find and read the config files of data sets and trainers, and choose the one of a run."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recipe.configs import FEATURES, read_keys
from trainers.prompting.errors import UserError, check_name, nearest, need
from trainers.prompting.record.hashes import plugin_folder

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

ANY = math.inf
TEN = [
    "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
    "sun397", "dtd", "eurosat", "ucf101",
]  # fmt: skip
# Names that stand for several data sets, wherever data sets are named.
GROUPS = {
    "all": ["imagenet", *TEN],  # of the papers
    "ten": TEN,
    "imagenet_variants": ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"],
    "medical": [  # of BiomedCoOp
        "btmri", "busi", "chmnist", "covid", "ctkidney", "dermamnist", "kneexray", "kvasir",
        "lungcolon", "octmnist", "retina",
    ],
    "several": ["voc2007", "coco2014"],  # labels an image
}  # fmt: skip
ON_FEATURES = "features"  # the config of methods on files of features
IMAGE_FOLDER = "image_folder"  # the user's own images; `image_folder=NAME` names one of several
given_plugins: list[str] = []  # of this command
_beside: dict[str, Path] = {}  # the config files of their data sets
# suffixes of a backbone or of features given as a file
WEIGHTS = (".pt", ".bin", ".safetensors")


class Rule(NamedTuple):
    """A rule: runs on these data sets, of these trainers, with at most `most_shots`, use `config`.

    The first rule counts whose config file the trainer has.
    Data sets and trainers are patterns, separated by spaces; `*` matches any.
    """

    datasets: str
    trainers: str
    most_shots: float
    config: str

    def fits(self, dataset: str, trainer: str, shots: int) -> bool:
        """Return True if the rule applies to a run."""
        return (
            any(fnmatchcase(dataset, pattern) for pattern in self.datasets.split())
            and any(fnmatchcase(trainer, pattern) for pattern in self.trainers.split())
            and shots <= self.most_shots
        )


# Rules of every protocol, applied before its own.
RULES = [
    Rule("emoji*", "*", ANY, "emoji"),
    Rule("*", "ZeroshotCLIP", ANY, "base2new"),
    # methods that cannot be tested on new classes
    Rule("*", "CLAP CrossModal LinearProbe LPPlusPlus SOTGLP", ANY, "few_shot"),
    Rule("*", "TaskRes TipAdapter TipAdapterF", ANY, "few_shot"),
]


@dataclass(frozen=True)
class TrainerConfigs:
    """Finds the config file of a run: the one asked for, or by the rules of its protocol.

    `asked` is the name of one of the trainer's files, or the path of a `.yaml` file. A method from
    a plug-in may have its config files in a folder of the method's name next to the plug-in.
    """

    asked: str | None = None  # the value of --config
    plugins: tuple[str, ...] = ()  # of train.py
    backbone: str | None = None  # the value of --backbone, in place of the config's CLIP
    features: str | None = None  # of --features

    def name(self, file: Path) -> str:
        """Return the name of a method's settings in folders and tables.

        It is `config[@backbone]`, or `config[@file of features]`.
        """
        asked = self.backbone or self.features
        if not asked:
            return file.stem
        backbone = asked.replace("/", "-")
        if Path(asked).suffix in WEIGHTS:
            backbone = Path(asked).stem
        return f"{file.stem}@{backbone}"

    def find(self, rules: list[Rule], trainer: str, dataset: str, shots: int) -> Path:
        """Return the config file of a run; raises UserError if it does not exist."""
        if self.asked and self.asked.endswith(".yaml"):
            return Path(self.asked).absolute()
        folders = [folder / trainer for folder in self._folders()]
        files = {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}
        fitting = [rule.config for rule in RULES + rules if rule.fits(dataset, trainer, shots)]
        if self.features or features_of(dataset):
            fitting.insert(0, ON_FEATURES)
        name = self.asked or next((name for name in fitting if name in files), fitting[0])
        if name in files:
            return files[name]
        if not files and not self.plugins:  # only train.py knows the methods of a plug-in
            raise UserError(
                f"There is no trainer '{trainer}': {nearest(trainer, known_trainers())}; a new "
                f"trainer needs config files in {folders[0]}, or --config FILE.yaml"
            )
        raise UserError(
            f"There is no config file of {trainer} for {dataset} called '{name}': "
            f"{nearest(name, files)}; write {folders[-1] / name}.yaml, or give --config FILE.yaml"
        )

    def _folders(self) -> list[Path]:
        """Return the folders that hold a folder for each trainer."""
        beside = (plugin_folder(name) for name in self.plugins)
        return [CONFIGS / "trainers", *(folder for folder in beside if folder)]


def varied_name(pairs: Mapping[str, object]) -> str:
    """Return what --vary adds to the name of a config: `+TRAINER.ALIGN.BETA=0`.

    It ends in a hash if a value has characters that a name cannot have.
    """
    suffix = ""
    for key, value in sorted(pairs.items()):
        plain = re.sub(r"[^\w.,-]+", "_", str(value))[:60]
        if plain != str(value):
            plain += "-" + hashlib.sha256(str(value).encode()).hexdigest()[:8]
        suffix += f"+{key}={plain}"
    return suffix


def keys_in(path: Path) -> dict[str, object]:
    """Return the keys of a config file as `read_keys` does, reading an unchanged file only once."""
    if not path.is_file():
        return read_keys(path)  # raises the error
    return dict(_keys_in(path, path.stat().st_mtime_ns))


@cache
def _keys_in(path: Path, modified: int) -> dict[str, object]:
    return read_keys(path)


def known_trainers() -> list[str]:
    """List the trainers that have config files in the repository."""
    return sorted(path.name for path in (CONFIGS / "trainers").glob("[!_]*") if path.is_dir())


def with_groups(datasets: Iterable[str]) -> list[str]:
    """Return names of data sets with those of GROUPS replaced by their members, each once.

    Examples:
        >>> with_groups(["emoji", "imagenet_variants", "imagenet_a"])
        ['emoji', 'imagenetv2', 'imagenet_sketch', 'imagenet_a', 'imagenet_r']
    """
    return list(dict.fromkeys(name for given in datasets for name in GROUPS.get(given, [given])))


def in_groups(datasets: Iterable[str]) -> list[str]:
    """Return names of data sets with the names of GROUPS in place of all their members.

    Examples:
        >>> in_groups([*TEN, "imagenet", "imagenet_r"])
        ['all', 'imagenet_r']
    """
    named, left = [], list(datasets)
    for name, members in GROUPS.items():
        if set(members) <= set(left):
            named.append(name)
            left = [other for other in left if other not in members]
    return [*named, *left]


def check_datasets(datasets: Iterable[str]) -> None:
    """Raise UserError if a data set has no config file, or `image_folder=NAME` an invalid name."""
    files, trainers = dataset_files(), known_trainers()
    for dataset in datasets:
        file, named, name = dataset.partition("=")
        need(
            not file.isdecimal() and file not in trainers,
            f"'{file}' is not a data set: quote several values of an option, as in "
            "--trainers 'CoOp ALIGN' or --seeds '1 2 3'",
        )
        need(
            file in files,
            f"There is no data set '{file:.100}': {nearest(file, files)}; a folder of your own "
            f"images, below --root, is {IMAGE_FOLDER}=FOLDER",
        )
        need(
            not named or re.fullmatch(r"\w[\w.-]*", name),
            f"'{name}' cannot name a data set: use letters, digits, '_', '-' and '.'",
        )
        need(  # tables would show its published numbers
            name not in files,
            f"'{name}' is the name of another data set: choose another name for your images",
        )


def use_plugins(plugins: Iterable[str]) -> None:
    """Find the data sets of a command's plug-ins, by the config files next to them."""
    given_plugins[:] = plugins
    _beside.clear()
    folders = {folder for name in given_plugins if (folder := plugin_folder(name))}
    for path in (path for folder in sorted(folders) for path in folder.glob("[!.]*.yaml")):
        if re.search(rb"^DATASET\b", path.read_bytes(), re.MULTILINE):
            other = dataset_files().get(path.stem, path)
            need(other == path, f"'{path}' has the name of the data set of '{other}': rename it")
            _beside[path.stem] = path


def dataset_files() -> dict[str, Path]:
    """Return the config files of data sets by name: in configs/datasets, and next to plug-ins."""
    return {path.stem: path for path in (CONFIGS / "datasets").glob("*.yaml")} | _beside


def dataset_file(dataset: str) -> Path:
    """Return the config file of a data set; that of `image_folder` for `image_folder=NAME`."""
    name = dataset.partition("=")[0]
    return _beside.get(name) or CONFIGS / "datasets" / f"{name}.yaml"


def dataset_class(dataset: str) -> Any:
    """Return the class of a data set, after loading the plug-ins for one of theirs. Needs PyTorch.

    The data set is named by its config file, or as DATASET.NAME.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    import datasets  # noqa: F401 (which registers them)
    from trainers.prompting.plugins import load_plugins

    if dataset in _beside:
        load_plugins(given_plugins)
    name, known = dataset_name(dataset) or dataset, DATASET_REGISTRY.registered_names()
    return DATASET_REGISTRY.get(check_name("data set", name, known))


def features_of(dataset: str) -> str:
    """Return the file of features that a data set's config names; empty if it names none."""
    file = keys_in(dataset_file(dataset)).get(FEATURES) if dataset_file(dataset).is_file() else ""
    return str(ROOT / str(file)) if file else ""


def usual_methods(datasets: Iterable[str], usual: list[str]) -> list[str]:
    """Return the methods of runs on data sets if none are named: of their configs, or the usual."""
    methods = {}
    for dataset in datasets:
        listed = keys_in(dataset_file(dataset)).get("DATASET.METHODS")
        methods[dataset] = listed if isinstance(listed, list) and listed else usual
    if not methods:  # the targets of a transfer depend on its source
        return usual
    first, *others = methods
    for other in others:
        if methods[other] != methods[first]:
            raise UserError(
                f"{first} and {other} have other default methods: name the methods (--trainers)"
            )
    return [str(name) for name in methods[first]]


def dataset_name(dataset: str) -> str | None:
    """Return DATASET.NAME from a data set's config file; None if the file does not exist."""
    path = dataset_file(dataset)
    return str(keys_in(path)["DATASET.NAME"]) if path.is_file() else None


@dataclass(frozen=True, eq=False)  # hashed by identity: a dict is not hashable
class Roots:
    """The folder --root of a command, and files of features by data set."""

    root: Path | None = None
    features: Mapping[str, str] = field(default_factory=dict)

    def given_root(self, dataset: str) -> Path | None:
        """Return the --root of a data set.

        For `image_folder=NAME`, it is the folder NAME in --root if that has class folders.
        """
        name = dataset.partition("=")[2]
        if self.root and name and any(path.is_dir() for path in (self.root / name).glob("*")):
            return self.root / name
        return self.root

    def check_apart(self, datasets: Iterable[str]) -> None:
        """Raise a UserError if two data sets would read one file of features, or one folder."""
        read: dict[str, str] = {}
        for dataset in sorted(datasets):
            file = self.features.get(dataset) or features_of(dataset)
            root = self.given_root(dataset) if dataset.startswith(IMAGE_FOLDER) else None
            if not (place := file or root):
                continue
            other = read.setdefault(os.path.realpath(place), dataset)
            if other != dataset:
                remedy = "give each its own file, in separate commands"
                if not file:
                    remedy = f"put the class folders of each data set into '{place}/NAME'"
                raise UserError(f"{other} and {dataset} would both read '{place}': {remedy}")

    def root_of_set(self, dataset: str) -> str | None:
        """Return the folder of a data set, or of all data sets; None if none is set."""
        root = self.given_root(dataset) or keys_in(dataset_file(dataset)).get("DATASET.ROOT")
        return str(root) if root else None
