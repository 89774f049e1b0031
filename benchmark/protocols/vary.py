"""Plan the runs of --vary: those of a protocol, with each of several values of keys."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

from recipe.configs import read_keys
from trainers.prompting.errors import UserError

from .base import Run, learns_nothing
from .configs import varied_name
from .space import Setting, as_pairs, read_words, text


def vary(runs: list[Run], words: Iterable[str], output: Path) -> list[Run]:
    """Return the runs with every choice of values, KEY=VALUE,VALUE, each in a separate folder.

    A key `TRAINER.NODE.*` concerns the methods whose config file has keys of that node, `TEST.*`
    all methods, any other key those that learn. Methods that no key concerns are run once.

    Raises:
        UserError: a word has another form, or two have one key, or a key concerns no method.
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
            chosen = tuple(map(text, values))
            needs = by_choice[run.needs, chosen] if run.needs else None
            by_choice[run, chosen] = _with(run, dict(zip(keys, values, strict=True)), needs, output)
    return list(by_choice.values())


def concerns(key: str, trainer: str, file: Path) -> bool:
    """Return True if a key means something to a method with a config file."""
    node = ".".join(key.split(".")[:2])
    if not key.startswith("TRAINER.") or key.count(".") < 2:
        return key.startswith("TEST.") or not learns_nothing(trainer)
    of_method = node.upper() == f"TRAINER.{trainer}".upper()
    return of_method or any(other.startswith(f"{node}.") for other in read_keys(file))


def _with(run: Run, setting: Setting, needs: Run | None, output: Path) -> Run:
    if not setting:
        return run
    config = run.config + varied_name({key: text(value) for key, value in setting.items()})
    place = run.protocol.parts[run.part].folder.format(**vars(run) | {"config": config})
    opts = run.opts + as_pairs(setting)
    return replace(run, config=config, folder=output / place, opts=opts, needs=needs)
