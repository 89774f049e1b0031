"""The config files of data sets and trainers: which one a run takes, and what is in it."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from ..errors import BadInput, check_name

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

# The config file of a run: that of the first line that fits its protocol, the data set trained on,
# the method and the number of shots (at most so many). `*` stands for any.
ANY = math.inf
CONFIG_FILES = [
    ("*", "emoji*", "*", ANY, "emoji"),
    ("*", "*", "ZeroshotCLIP", ANY, "base2new"),
    ("base2new ablation", "*", "*", ANY, "base2new"),
    ("few_shot", "imagenet", "CoOp PLOT", ANY, "vit_b16_ep50"),
    ("few_shot", "*", "CoOp PLOT", 1, "vit_b16_ep50"),
    ("few_shot", "*", "CoOp PLOT", 4, "vit_b16_ep100"),
    ("few_shot", "*", "CoOp PLOT", ANY, "vit_b16"),
    ("few_shot", "*", "CoCoOp", ANY, "vit_b16_c4_ep10_batch1_ctxv1"),
    ("few_shot", "*", "*", 4, "few_shot_1_2_4"),
    ("few_shot", "*", "*", ANY, "few_shot_8_16"),
    ("*", "*", "CoOp", ANY, "vit_b16_ep50_ctxv1"),
    ("*", "*", "CoCoOp", ANY, "vit_b16_c4_ep10_batch1_ctxv1"),
    ("*", "*", "MaPLe", ANY, "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"),
    ("*", "*", "PLOT", ANY, "vit_b16_ep50"),
    ("*", "*", "*", ANY, "cross_dataset"),
]


def check_names(datasets: Iterable[str], trainers: Iterable[str]) -> None:
    """Raise BadInput unless every data set and every trainer has its config files."""
    for dataset in datasets:
        known = (path.stem for path in (CONFIGS / "datasets").glob("*.yaml"))
        check_name("data set", dataset, known)
    for trainer in trainers:
        known = (path.name for path in (CONFIGS / "trainers").iterdir() if path.is_dir())
        check_name("trainer", trainer, known)


def config_name(trainer: str, dataset: str, protocol: str, shots: int, asked: str | None) -> str:
    """The name of the trainer's config file: as asked, or by CONFIG_FILES.

    Raises:
        BadInput: there is no such file.
    """

    def fits(value: str, patterns: str) -> bool:
        return any(fnmatchcase(value, pattern) for pattern in patterns.split())

    name = asked or next(
        name
        for protocols, datasets, trainers, most, name in CONFIG_FILES
        if fits(protocol, protocols) and fits(dataset, datasets) and fits(trainer, trainers)
        and shots <= most
    )  # fmt: skip
    known = (path.stem for path in (CONFIGS / "trainers" / trainer).glob("*.yaml"))
    return check_name(f"config of {trainer} for {dataset}", name, known)


def config_keys(trainer: str, config: str) -> dict:
    """The dotted keys of a trainer's config file, and their values."""

    def leaves(tree: dict, prefix: str = ""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + str(key), value

    return dict(leaves(read_config(CONFIGS / "trainers" / trainer / f"{config}.yaml")))


def pairs(opts: tuple[str, ...]) -> dict[str, str]:
    """KEY VALUE pairs as a mapping; of a key that is there twice the last counts."""
    return dict(zip(opts[::2], opts[1::2], strict=True))


def dataset_name(dataset: str) -> str | None:
    """The DATASET.NAME in the data set's config file; None when there is no such file."""
    path = CONFIGS / "datasets" / f"{dataset}.yaml"
    if not path.is_file():
        return None
    try:
        return read_config(path)["DATASET"]["NAME"]
    except (KeyError, TypeError):
        raise BadInput(f"{path} does not say DATASET: NAME") from None


def read_config(path: Path) -> dict:
    """The keys and values of a config file."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path} holds no keys and values")
    return config
