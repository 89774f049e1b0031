"""A protocol is a list of runs: which trainings and evaluations make a table."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

from ..errors import BadInput
from .configs import config_keys, config_name, pairs

# Methods in the order in which a table shows them; any other comes after these, by name.
METHODS = ["ZeroshotCLIP", "CoOp", "CoCoOp", "VPT", "IVLP", "MaPLe", "UPT", "PLOT", "MMP", "ALIGN"]

# These learn nothing: they are tested like the others but leave no prompts to load.
UNTRAINED = {"ZeroshotCLIP"}

# What they reach depends on neither seed nor shots: one run with this seed and these shots stands
# for all. Base-to-new alone tests them with every seed, to fill its columns like any method.
UNTRAINED_DRAW = (1, 0)

# The folder of a run below the output, by its protocol and the column that it fills. Both transfer
# protocols share the training, whose own test fills the column `source`.
METHOD = "shots_{shots}/{trainer}/{config}"
FOLDERS = {
    ("base2new", "base"): f"base2new/train_base/{{dataset}}/{METHOD}/seed{{seed}}",
    ("base2new", "new"): f"base2new/test_new/{{dataset}}/{METHOD}/seed{{seed}}",
    ("few_shot", "all"): f"few_shot/{{dataset}}/{METHOD}/seed{{seed}}",
    ("cross_dataset", "source"): f"transfer/{{source}}/{METHOD}/seed{{seed}}",
    ("cross_dataset", "target"): f"cross_dataset/{{source}}/{{dataset}}/{METHOD}/seed{{seed}}",
    ("domain_generalization", "source"): f"transfer/{{source}}/{METHOD}/seed{{seed}}",
    ("domain_generalization", "target"): (
        f"domain_generalization/{{source}}/{{dataset}}/{METHOD}/seed{{seed}}"
    ),
    ("ablation", "base"): f"ablation/train_base/{{dataset}}/{METHOD}/{{variant}}/seed{{seed}}",
    ("ablation", "new"): f"ablation/test_new/{{dataset}}/{METHOD}/{{variant}}/seed{{seed}}",
}
PROTOCOLS = list(dict.fromkeys(protocol for protocol, _ in FOLDERS))
TRANSFER = ("cross_dataset", "domain_generalization")

# The targets of the transfer protocols that are tested when none are named, by the source.
TARGETS = {
    ("cross_dataset", "imagenet"): (
        "caltech101 oxford_pets stanford_cars oxford_flowers food101 "
        "fgvc_aircraft sun397 dtd eurosat ucf101"
    ),
    ("cross_dataset", "emoji"): "emoji_animals emoji_food",
    ("domain_generalization", "imagenet"): "imagenetv2 imagenet_sketch imagenet_a imagenet_r",
    ("domain_generalization", "emoji"): "emoji_3d emoji_sketch",
}


@dataclass(frozen=True)
class Run:
    """One call of train.py: a training (which ends in a test), or the evaluation of another's.

    `dataset` (which is tested) and `config` are names of files in configs/; `needs` is the
    training run whose prompts an evaluation loads; `part` is the column of the table that the
    accuracy fills. `source` is the data set trained on, for the transfer protocols; `variant` and
    `opts`, KEY VALUE pairs of this run alone, tell the settings of an ablation apart.
    """

    trainer: str
    dataset: str
    config: str
    seed: int
    shots: int
    subsample: str
    part: str
    folder: Path
    protocol: str = "base2new"
    eval_only: bool = False
    needs: "Run | None" = None
    source: str = ""
    variant: str = ""
    opts: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{self.trainer} on {self.dataset}"]
        if self.part == "target":
            words[0] += f" from {self.source}"
        if self.protocol == "few_shot":
            words.append("1 shot" if self.shots == 1 else f"{self.shots} shots")
        if self.variant:
            words.append(self.variant)
        words.append(f"seed {self.seed}")
        if self.part in ("base", "new", "source"):
            words.append(self.part)
        return ", ".join(words)


def base2new(
    output: Path,
    datasets: Iterable[str],
    trainers: Iterable[str],
    seeds: Iterable[int],
    shots: int,
    config: str | None = None,
) -> list[Run]:
    """Train and test on the base classes, then test on the new ones.

    Seeds come before trainers, here and below: the first seed of every method is there early, and
    with it an idea of how long the rest takes.
    """
    runs = []
    for seed, dataset, trainer in product(seeds, datasets, trainers):
        name = config_name(trainer, dataset, "base2new", shots, config)
        runs += _base_and_new(output, "base2new", trainer, dataset, name, seed, shots)
    return runs


def few_shot(
    output: Path,
    datasets: Iterable[str],
    trainers: Iterable[str],
    seeds: Iterable[int],
    shots: Iterable[int],
    config: str | None = None,
) -> list[Run]:
    """Train and test on all classes, with each number of shots."""
    runs = {}  # a dict in place of a set: it keeps the order
    for seed, number, dataset, trainer in product(seeds, shots, datasets, trainers):
        draw = UNTRAINED_DRAW if trainer in UNTRAINED else (seed, number)
        name = config_name(trainer, dataset, "few_shot", draw[1], config)
        runs[_run(output, "few_shot", "all", trainer, dataset, name, *draw)] = None
    return list(runs)


def transfer(
    protocol: str,
    output: Path,
    source: str,
    targets: Iterable[str],
    trainers: Iterable[str],
    seeds: Iterable[int],
    shots: int,
    config: str | None = None,
) -> list[Run]:
    """Train and test on the source, then test on the targets with the same config.

    The targets have other classes (`cross_dataset`), or those of the source in other styles
    (`domain_generalization`); the trainings are the same.
    """
    runs = {}
    for seed, trainer in product(seeds, trainers):
        draw = UNTRAINED_DRAW if trainer in UNTRAINED else (seed, shots)
        name = config_name(trainer, source, protocol, draw[1], config)
        what = {"config": name, "seed": draw[0], "shots": draw[1], "source": source}
        training = _run(output, protocol, "source", trainer, source, **what)
        needs = None if trainer in UNTRAINED else training
        runs[training] = None
        for target in targets:
            runs[_run(output, protocol, "target", trainer, target, **what, needs=needs)] = None
    return list(runs)


def ablation(
    output: Path,
    datasets: Iterable[str],
    seeds: Iterable[int],
    shots: int,
    betas: Iterable[float] = (),
    prompts: Iterable[tuple[int, int]] = (),
    config: str | None = None,
) -> list[Run]:
    """ALIGN base-to-new with each beta in the convex form of the cost, and with each (M, N)."""
    runs = []
    for seed, dataset in product(seeds, datasets):
        name = config_name("ALIGN", dataset, "ablation", shots, config)
        variants = {f"beta{beta:g}": beta_opts(beta) for beta in betas}
        variants |= {f"M{M}_N{N}": prompt_opts(M, N, name) for M, N in prompts}
        for variant, opts in variants.items():
            what = ("ALIGN", dataset, name, seed, shots)
            runs += _base_and_new(output, "ablation", *what, variant=variant, opts=opts)
    return runs


def beta_opts(beta: float) -> tuple[str, ...]:
    """The KEY VALUE pairs of ALIGN with this beta, which weighs both levels in the convex form."""
    return ("TRAINER.ALIGN.BETA_FORM", "convex", "TRAINER.ALIGN.BETA", str(beta))


def prompt_opts(M: int, N: int, config: str) -> tuple[str, ...]:
    """The KEY VALUE pairs of ALIGN with M visual and N textual prompts.

    A config file that lists a template for each prompt gets as many as there now are.
    """
    opts = ("TRAINER.ALIGN.M", str(M), "TRAINER.ALIGN.N", str(N))
    words = config_keys("ALIGN", config).get("TRAINER.ALIGN.CTX_INIT")
    if isinstance(words, list):
        opts += ("TRAINER.ALIGN.CTX_INIT", str(list(islice(cycle(words), N))))
    return opts


def _run(output, protocol, part, trainer, dataset, config, seed, shots, **more) -> Run:
    names = {"trainer": trainer, "dataset": dataset, "config": config, "seed": seed, "shots": shots}
    folder = output / FOLDERS[protocol, part].format(**names, **more)
    return Run(
        **names,
        **more,
        subsample=part if part in ("base", "new") else "all",
        part=part,
        folder=folder,
        protocol=protocol,
        eval_only=part in ("new", "target"),
    )


def _base_and_new(output, protocol, *what, **more) -> list[Run]:
    """Training and test on the base classes, and the test on the new ones."""
    base = _run(output, protocol, "base", *what, **more)
    needs = None if base.trainer in UNTRAINED else base
    return [base, _run(output, protocol, "new", *what, **more, needs=needs)]


def runs_on_disk(output: Path, protocol: str) -> list[Run]:
    """The runs of a protocol that have a folder in `output`, whoever started them.

    A training for transfer belongs to the protocol that tests it, or to both when none does yet.
    """
    runs = [run for part in _parts(protocol) for run in _found(output, protocol, part)]
    if "source" not in _parts(protocol):
        return runs
    other = next(name for name in TRANSFER if name != protocol)
    mine = {_training(run) for run in runs if run.part == "target"}
    others = {_training(run) for run in _found(output, other, "target")} - mine
    return [run for run in runs if _training(run) not in others]


def _parts(protocol: str) -> list[str]:
    return [part for name, part in FOLDERS if name == protocol]


def _training(run: Run) -> tuple:
    """What tells trainings for transfer apart."""
    return run.source, run.shots, run.trainer, run.config, run.seed


def _found(output: Path, protocol: str, part: str) -> list[Run]:
    """The runs that have a folder in the place of this part."""
    place = FOLDERS[protocol, part]
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", place))
    runs = []
    for folder in sorted(output.glob(re.sub(r"\{\w+\}", "*", place))):
        names = pattern.fullmatch(folder.relative_to(output).as_posix()).groupdict()
        if names["shots"].isdecimal() and names["seed"].isdecimal():
            names |= {"shots": int(names["shots"]), "seed": int(names["seed"])}
            names.setdefault("dataset", names.get("source"))
            runs.append(_run(output, protocol, part, **names))
    return runs


def check_classes(runs: Iterable[Run], opts: tuple[str, ...]) -> None:
    """Raise BadInput when prompts that are made for some classes would be tested on others.

    In domain generalization these may be the same classes.
    """
    others = [run for run in runs if run.needs and run.protocol != "domain_generalization"]
    for trainer, config in {(run.trainer, run.config) for run in others}:
        keys = config_keys(trainer, config) | pairs(opts)
        node = f"TRAINER.{trainer.upper()}"
        # words start one context for all classes
        if str(keys.get(f"{node}.CSC")) == "True" and not keys.get(f"{node}.CTX_INIT"):
            raise BadInput(
                f"{trainer} with a context for each class (CSC) cannot be tested on other classes "
                f"than those it was trained on: set {node}.CSC False"
            )
