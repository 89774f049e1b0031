"""The settings that are tried: a grid of values for config keys, the same for every method.

    OPTIM.LR: [0.002, 0.01, 0.05]
    OPTIM.MAX_EPOCH: [10, 50]
    BY_TRAINER:               # what one method has beside that, or instead
      KgCoOp:
        TRAINER.COOP.W: [1, 8]

A list of such mappings is several grids, one after the other. So is a list below a trainer's name.
"""

import contextlib
import itertools
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from recipe.configs import leaves, read_yaml
from trainers.prompting.errors import UserError, check_name

SECTION = "BY_TRAINER"
WORD = re.compile(r"([A-Z][A-Z0-9_]*(?:\.\w+)*)=(.*)", re.DOTALL)

Setting = dict[str, object]  # values by dotted key
Grid = dict[str, list]


def read_word(word: str) -> tuple[str, list]:
    """The key and the values of a word such as `OPTIM.LR=0.01,0.1`.

    Raises:
        UserError: it is none.
    """
    found, values = WORD.fullmatch(word), []
    if found:
        with contextlib.suppress(yaml.YAMLError):
            values = yaml.safe_load(f"[{found[2]}]")
    if not found or not values:
        raise UserError(f"'{word}' is no range: write KEY=VALUE,VALUE, as in OPTIM.LR=0.01,0.1")
    return found[1], values


class Space:
    """What is tried for each method.

    Args:
        path: a file of the above form, or None.
        words: ranges as `read_word` takes them; they replace what the file has for the key.
        known: the trainers that the file may name.

    Raises:
        UserError: the file has another form.
    """

    def __init__(self, path: Path | None, words: Iterable[str], known: Iterable[str]):
        self.words = dict(map(read_word, words))
        parts = as_list(read_yaml(path)) if path else [{}]
        self.grids = []  # what all methods share, and what each has of its own
        for part in parts:
            if not isinstance(part, Mapping):
                raise UserError(f"{path} is no search space: it is to have lines of KEY: [VALUES]")
            part = dict(part)
            own = part.pop(SECTION, None) or {}
            if not isinstance(own, Mapping):
                raise UserError(f"{path}: {SECTION} is to have a mapping for each trainer")
            for name in own:
                check_name("trainer", name, known)
            alternatives = {
                name: [as_grid(grid, path) for grid in as_list(grids)]
                for name, grids in own.items()
            }
            self.grids.append((as_grid(part, path), alternatives))

    def settings(self, trainer: str, budget: int | None = None) -> list[Setting]:
        """The settings of a method, each once, in the order of the file.

        Of more than `budget` so many are drawn at random, always the same.

        Raises:
            UserError: there is no choice.
        """
        found: dict[frozenset, Setting] = {}
        for shared, alternatives in self.grids:
            for own in alternatives.get(trainer, [{}]):
                grid = shared | own | self.words
                for values in itertools.product(*grid.values()):
                    setting = dict(zip(grid, values, strict=True))
                    found.setdefault(frozenset(map(text, setting.items())), setting)
        settings = list(found.values())
        if len(settings) < 2:
            raise UserError(
                f"{trainer} has a single setting, so there is nothing to choose: name several "
                "values, as in OPTIM.LR=0.01,0.1, or a --space file"
            )
        if budget is None or budget >= len(settings):
            return settings
        if budget < 2:
            raise UserError("--budget 1 leaves nothing to choose: give 2 or more")
        drawn = sorted(random.Random(0).sample(range(len(settings)), budget))
        return [settings[i] for i in drawn]


def as_list(value: object) -> list:
    """A value as the only one of a list; a list as it is."""
    return value if isinstance(value, list) else [value]


def as_grid(tree: object, path: Path | None) -> Grid:
    """A grid from a mapping; a value alone is a list of one.

    Raises:
        UserError: it is no mapping, or a key has no value.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: '{tree}' is no search space: write lines of KEY: [VALUES]")
    grid = {key: as_list(values) for key, values in leaves(tree)}
    for key, values in grid.items():
        if not values or None in values:
            raise UserError(f"{path}: {key} has no values: write {key}: [VALUES], or leave it out")
    return grid


def text(value: object) -> str:
    """A value as train.py takes it on its command line."""
    return value if isinstance(value, str) else repr(value)


def pairs(setting: Setting) -> tuple[str, ...]:
    """The KEY VALUE pairs of a setting."""
    return tuple(word for key, value in setting.items() for word in (key, text(value)))


def name_of(setting: Setting) -> str:
    """A setting in words: `OPTIM.LR=0.01 OPTIM.MAX_EPOCH=50`."""
    return " ".join(f"{key}={text(value)}" for key, value in setting.items())
