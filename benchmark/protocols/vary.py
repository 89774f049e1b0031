"""Plan the runs of --vary: those of a protocol, with each of several values of keys."""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import yaml

from recipe.configs import read_keys
from trainers.prompting.errors import UserError

from .base import Run, learns_nothing

WORD = re.compile(r"([A-Za-z]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


def vary(runs: list[Run], words: Iterable[str], output: Path) -> list[Run]:
    """Return the runs with every choice of values, KEY=VALUE,VALUE, each in a separate folder.

    A key `TRAINER.NODE.*` concerns the methods whose config file has keys of that node, `TEST.*`
    all methods, any other key those that learn. Methods that no key concerns are run once.
    """
    grid = read_words(words)
    files = {run.trainer: run.config_file for run in runs}
    concerned = {
        trainer: [key for key in grid if concerns(key, trainer, file)]
        for trainer, file in files.items()
    }
    for key in grid:
        if not any(key in keys for keys in concerned.values()):
            raise UserError(f"--vary {key}: none of {', '.join(files)} has this key: name a method "
                            "that has it in --trainers")  # fmt: skip
    by_choice: dict[tuple, Run] = {}
    for run in runs:
        keys = concerned[run.trainer]
        for values in product(*(grid[key] for key in keys)):
            needs = by_choice[run.needs, values] if run.needs else None
            by_choice[run, values] = _with(run, dict(zip(keys, values, strict=True)), needs, output)
    return list(by_choice.values())


def read_words(words: Iterable[str]) -> dict[str, list[str]]:
    """Parse words such as `OPTIM.LR=0.01,0.1`; return values by key, as train.py reads them."""
    grid: dict[str, list[str]] = {}
    for word in words:
        match, values = WORD.fullmatch(word), []
        if match:
            with contextlib.suppress(yaml.YAMLError):
                values = yaml.safe_load(f"[{match[2]}]")
        if not match or not values:
            raise UserError(
                f"'{word}' is not a list of values: write KEY=VALUE,VALUE, as in OPTIM.LR=0.01,0.1"
            )
        texts = (value if isinstance(value, str) else repr(value) for value in values)
        grid[match[1]] = list(dict.fromkeys([*grid.get(match[1], ()), *texts]))
    return grid


def concerns(key: str, trainer: str, file: Path) -> bool:
    """Return True if a key means something to a method with a config file."""
    node = ".".join(key.split(".")[:2])
    if not key.startswith("TRAINER.") or key.count(".") < 2:
        return key.startswith("TEST.") or not learns_nothing(trainer)
    of_method = node.upper() == f"TRAINER.{trainer}".upper()
    return of_method or any(other.startswith(f"{node}.") for other in read_keys(file))


def _with(run: Run, setting: Mapping[str, str], needs: Run | None, output: Path) -> Run:
    if not setting:
        return run
    opts = run.opts + tuple(word for pair in setting.items() for word in pair)
    run = replace(run, opts=opts, needs=needs)
    return replace(run, folder=output / run.place)
