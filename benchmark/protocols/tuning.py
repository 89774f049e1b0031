"""The runs of a tuning: each setting of each method and data set, tested on validation images."""

import hashlib
import re
import sys
from itertools import product
from pathlib import Path

from trainers.prompting.errors import UserError

from ..cli import from_one
from .base import METHOD, SHOTS, TRAINERS, Part, Protocol, learns_nothing
from .base2new import BASE2NEW
from .configs import CONFIGS, known_trainers
from .few_shot import FEW_SHOT
from .space import Setting, Space, name_of, pairs
from .transfer import TRANSFER

# The protocols that settings can be chosen for. Each has its own rules for config files, and
# trains on its own classes: validation images are of these.
FOR = {p.name: p for p in (BASE2NEW, FEW_SHOT, *TRANSFER)}

VALIDATION = ("TEST.SPLIT", "val")


class Tuning(Protocol):
    """Trainings with each setting. Test images are never looked at."""

    name = "tune"
    title = "Tuning"
    summary = "choose settings of methods on validation images, of all data sets together"
    parts = {
        name: Part(
            f"tune/{name}/{{dataset}}/{METHOD}/{{variant}}/seed{{seed}}",
            subsample=next(iter(protocol.parts.values())).subsample,
        )
        for name, protocol in FOR.items()
    }
    rules = []
    options = {
        "--trainers": TRAINERS["--trainers"] | {"default": "CoOp ALIGN"},
        **SHOTS,
        "--protocol": {
            "choices": FOR,
            "default": BASE2NEW.name,
            "help": "that the settings are for: it says which classes are trained on, and from "
            "which config files the methods start (default: %(default)s)",
        },
        "--space": {
            "type": Path,
            "metavar": "FILE",
            "help": "a yaml of lines KEY: [VALUES] (default: configs/tune/emoji.yaml for the emoji "
            "data sets, else configs/tune/public.yaml; none if there are words KEY=VALUE,VALUE)",
        },
        "--vary": {
            "action": "append",
            "default": [],
            "metavar": "KEY=VALUE,VALUE",
            "help": "values of a key, in place of those in the file; the words alone do as well",
        },
        "--budget": {
            "type": from_one,
            "metavar": "N",
            "help": "try so many settings of each method, drawn at random (default: all)",
        },
    }
    by_variant = True

    def plan(
        self, output, datasets, seeds, configs, trainers, shots, protocol, space, vary, budget
    ):
        """The runs: each setting of the grid for each method, seed and data set."""
        untrained = [trainer for trainer in trainers if learns_nothing(trainer)]
        trainers = [trainer for trainer in trainers if trainer not in untrained]
        if untrained:
            print(f"Left out, as it learns nothing: {', '.join(untrained)}", file=sys.stderr)
        if not trainers:
            raise UserError("--trainers names no method that learns anything")
        if space is None and not vary:
            emoji = all(dataset.startswith("emoji") for dataset in datasets)
            space = CONFIGS / "tune" / ("emoji.yaml" if emoji else "public.yaml")
        tried = Space(space, vary, {*known_trainers(), *trainers})
        settings = {trainer: tried.settings(trainer, budget) for trainer in trainers}
        counts = {trainer: len(found) for trainer, found in settings.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{trainer} {count}" for trainer, count in counts.items())
            least = min(counts.values())
            print(
                f"Methods have different numbers of settings ({told}): --budget {least} gives all "
                "the same effort",
                file=sys.stderr,
            )
        runs = []
        rules = FOR[protocol].rules
        for seed, trainer in product(seeds, trainers):
            for setting, dataset in product(settings[trainer], datasets):
                file = configs.find(rules, trainer, dataset, shots)
                names = {"trainer": trainer, "config": file.stem, "config_file": file}
                names |= {"dataset": dataset, "seed": seed, "shots": shots}
                names |= {"variant": folder_name(setting), "opts": pairs(setting) + VALIDATION}
                runs.append(self.run(output, protocol, **names))
        check_configs(runs)
        return runs


def check_configs(runs) -> None:
    """Raise a UserError where data sets start from different files: one choice is for all."""
    for trainer in {run.trainer for run in runs}:
        found = {run.config_file: run.dataset for run in runs if run.trainer == trainer}
        if len(found) > 1:
            told = ", ".join(f"{file.stem} for {dataset}" for file, dataset in found.items())
            raise UserError(
                f"{trainer} has different config files on these data sets ({told}): tune them "
                "apart, or name one file for all by --config"
            )


def folder_name(setting: Setting) -> str:
    """A setting as the name of a folder, for any order of its keys.

    Where a name cannot hold all of it, it ends in a hash.
    """
    whole = name_of(dict(sorted(setting.items())))
    name = re.sub(r"[^\w.,=+-]+", "_", whole)
    if len(name) <= 100 and re.fullmatch(r"[\w.,=+ -]+", whole):
        return name
    return f"{name[:90]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


TUNING = Tuning()
