"""Plan the runs of `python -m benchmark tune`: each setting to try, tested on validation images."""

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
from .space import Setting, Space, as_pairs, setting_text
from .transfer import TRANSFER

# The protocols that settings can be chosen for. Each has its own rules for config files and its own
# training classes; the validation images are of these classes.
FOR = {p.name: p for p in (BASE2NEW, FEW_SHOT, *TRANSFER)}

VALIDATION = ("TEST.SPLIT", "val")


class Tuning(Protocol):
    """Train with each setting and test on validation images. Test images are never used."""

    name = "tune"
    title = "Tuning"
    summary = "choose settings of methods on validation images, one choice for all data sets"
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
            "help": "the protocol that the settings are for; it decides on which classes the "
            "methods are trained and which config files they start from (default: %(default)s)",
        },
        "--space": {
            "type": Path,
            "metavar": "FILE",
            "help": "a YAML file with lines of KEY: [VALUES] (default: none if KEY=VALUE,VALUE is "
            "given, else configs/tune/emoji.yaml for emoji data sets and configs/tune/public.yaml "
            "for others)",
        },
        "--vary": {
            "action": "append",
            "default": [],
            "metavar": "KEY=VALUE,VALUE",
            "help": "values of a key, in place of the file's; --vary itself can be left out",
        },
        "--budget": {
            "type": from_one,
            "metavar": "N",
            "help": "try at most N settings of each method, drawn at random (default: all)",
        },
    }
    by_variant = True

    def plan(
        self, output, datasets, seeds, configs, trainers, shots, protocol, space, vary, budget
    ):
        """Return the runs: each setting of the grid for each method, seed and data set."""
        untrained = [trainer for trainer in trainers if learns_nothing(trainer)]
        trainers = [trainer for trainer in trainers if trainer not in untrained]
        if untrained:
            print(f"Left out, as it learns nothing: {', '.join(untrained)}", file=sys.stderr)
        if not trainers:
            raise UserError("--trainers has no method that learns: add one, such as ALIGN")
        if space is None and not vary:
            emoji = all(dataset.startswith("emoji") for dataset in datasets)
            space = CONFIGS / "tune" / ("emoji.yaml" if emoji else "public.yaml")
        tried = Space(space, vary, {*known_trainers(), *trainers})
        settings = {trainer: tried.settings(trainer, budget) for trainer in trainers}
        counts = {trainer: len(options) for trainer, options in settings.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{trainer} {count}" for trainer, count in counts.items())
            least = min(counts.values())
            print(
                f"Methods have different numbers of settings ({told}): with --budget {least} all "
                "get the same number",
                file=sys.stderr,
            )
        runs = []
        rules = FOR[protocol].rules
        for seed, trainer in product(seeds, trainers):
            for setting, dataset in product(settings[trainer], datasets):
                file = configs.find(rules, trainer, dataset, shots)
                names = {"trainer": trainer, "config": file.stem, "config_file": file}
                names |= {"dataset": dataset, "seed": seed, "shots": shots}
                names |= {"variant": folder_name(setting), "opts": as_pairs(setting) + VALIDATION}
                runs.append(self.run(output, protocol, **names))
        check_configs(runs)
        return runs


def check_configs(runs) -> None:
    """Raise UserError if a method has different config files on the data sets to tune on.

    One choice has to fit all data sets, so all of them start from one file.
    """
    for trainer in {run.trainer for run in runs}:
        by_file = {run.config_file: run.dataset for run in runs if run.trainer == trainer}
        if len(by_file) > 1:
            files = ", ".join(f"{file.stem} for {dataset}" for file, dataset in by_file.items())
            raise UserError(
                f"{trainer} has different config files on these data sets ({files}): tune them "
                "separately, or choose one file for all with --config"
            )


def folder_name(setting: Setting) -> str:
    """Return the name of a setting's folder, which does not depend on the order of its keys.

    The name ends in a hash if the setting is too long or has characters that a name cannot have.
    """
    whole = setting_text(dict(sorted(setting.items())))
    name = re.sub(r"[^\w.,=+-]+", "_", whole)
    if len(name) <= 100 and re.fullmatch(r"[\w.,=+ -]+", whole):
        return name
    return f"{name[:90]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


TUNING = Tuning()
