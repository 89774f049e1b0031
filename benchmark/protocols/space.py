"""Search spaces of `python -m benchmark tune`: a grid of values for config keys, for all methods.

    OPTIM.LR: [0.002, 0.01, 0.05]
    OPTIM.MAX_EPOCH: [10, 50]
    BY_TRAINER:               # keys that one method adds or replaces
      KgCoOp:
        TRAINER.COOP.W: [1, 8]

A list of such mappings is several grids, tried in turn. So is a list below a trainer's name.
"""

import contextlib
import math
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from recipe.configs import leaves, read_yaml
from trainers.prompting.errors import UserError, check_name

SECTION = "BY_TRAINER"
MOST = 10_000  # settings of a method
WORD = re.compile(r"(?!image_folder=)([A-Za-z]\w*(?:\.\w+)*)=(.*)", re.DOTALL)

Setting = dict[str, object]  # values by dotted key
Grid = dict[str, list]


def read_word(word: str) -> tuple[str, list]:
    """Parse a word such as `OPTIM.LR=0.01,0.1` into key and values; raises UserError for others."""
    match, values = WORD.fullmatch(word), []
    if match:
        with contextlib.suppress(yaml.YAMLError):
            values = yaml.safe_load(f"[{match[2]}]")
    if not match or not values:
        raise UserError(
            f"'{word}' is not a list of values: write KEY=VALUE,VALUE, as in OPTIM.LR=0.01,0.1"
        )
    return match[1], values


def read_words(words: Iterable[str]) -> Grid:
    """Parse words as `read_word` does; raises UserError if two have the same key."""
    grid: Grid = {}
    for key, values in map(read_word, words):
        if key in grid:
            raise UserError(f"{key} is given twice: write all of its values in one {key}=...")
        grid[key] = values
    return grid


class Space:
    """A search space: the settings to try for each method.

    `path` is a file in the format above, or None. `words`, as `read_words` reads them, replace its
    values of a key; `known` are the trainers that it may name.

    Raises:
        UserError: the file has another format, or a word.
    """

    def __init__(self, path: Path | None, words: Iterable[str], known: Iterable[str]):
        self.words = read_words(words)
        parts = as_list(read_yaml(path)) if path else [{}]
        self.grids = []  # each the grid of all methods, and those of single methods
        for part in parts:
            if not isinstance(part, Mapping):
                raise UserError(f"{path} is not a search space: write lines of KEY: [VALUES]")
            part = dict(part)
            sections = part.pop(SECTION, None) or {}
            if not isinstance(sections, Mapping):
                raise UserError(f"{path}: below {SECTION}, write TRAINER: and lines of its keys")
            for name in sections:
                check_name("trainer", name, known)
            alternatives = {
                name: [as_grid(grid, path) for grid in as_list(grids)]
                for name, grids in sections.items()
            }
            self.grids.append((as_grid(part, path), alternatives))

    def settings(self, trainer: str, budget: int | None = None) -> list[Setting]:
        """Return the settings of a method, without duplicates, in the order of the file.

        If there are more than `budget`, that many are drawn at random, always the same ones.

        Raises:
            UserError: there are fewer than two settings, or too many.
        """
        if budget is not None and budget < 2:
            raise UserError("--budget 1 leaves nothing to choose: give 2 or more")
        grids = [
            {key: list({text(v): v for v in values}.values()) for key, values in grid.items()}
            for shared, alternatives in self.grids
            for alternative in alternatives.get(trainer, [{}])
            for grid in [shared | alternative | self.words]
        ]
        counts = [math.prod(map(len, grid.values())) for grid in grids]
        if min(sum(counts), budget or sum(counts)) > MOST:
            raise UserError(
                f"{trainer} has {sum(counts):,} settings: give --budget N, {MOST:,} at most, to "
                "draw N of them, or fewer values"
            )
        if sum(counts) > MOST:
            return draw_settings(grids, counts, budget or MOST)
        listed = (at(grid, i) for grid, n in zip(grids, counts, strict=True) for i in range(n))
        settings = list({identity(setting): setting for setting in listed}.values())
        if len(settings) < 2:
            raise UserError(
                f"{trainer} has a single setting, so there is nothing to choose: give several "
                "values, as in OPTIM.LR=0.01,0.1, or a --space file"
            )
        if budget is None or budget >= len(settings):
            return settings
        chosen = sorted(random.Random(0).sample(range(len(settings)), budget))
        return [settings[i] for i in chosen]


def as_list(value: object) -> list:
    """Return a list unchanged, and any other value as the only item of a list."""
    return value if isinstance(value, list) else [value]


def as_grid(tree: object, path: Path | None) -> Grid:
    """Return the grid of a mapping; a single value counts as a list of one.

    Raises:
        UserError: `tree` is not a mapping, or a key has no value.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: '{tree}' is not a search space: write lines of KEY: [VALUES]")
    grid = {key: as_list(values) for key, values in leaves(tree)}
    for key, values in grid.items():
        if not values or None in values:
            raise UserError(f"{path}: {key} has no values: write {key}: [VALUES], or leave it out")
    return grid


def at(grid: Grid, i: int) -> Setting:
    """Return the i-th setting of a grid, from 0; the last key changes first."""
    setting: Setting = {}
    for key, values in reversed(grid.items()):
        i, place = divmod(i, len(values))
        setting[key] = values[place]
    return {key: setting[key] for key in grid}


def draw_settings(grids: list[Grid], counts: list[int], budget: int) -> list[Setting]:
    """Return different settings of grids that are too large to be listed, drawn at random.

    There are fewer than `budget` if grids overlap so much that no others are found.
    """
    draw = random.Random(0)
    by_identity: dict[frozenset, tuple[int, Setting]] = {}
    for _ in range(10 * budget):
        if len(by_identity) == budget:
            break
        i = place = draw.randrange(sum(counts))
        for grid, count in zip(grids, counts, strict=True):
            if i < count:
                setting = at(grid, i)
                by_identity.setdefault(identity(setting), (place, setting))
                break
            i -= count
    return [setting for _, setting in sorted(by_identity.values(), key=lambda pair: pair[0])]


def identity(setting: Setting) -> frozenset[tuple[str, str]]:
    """Return what is equal for settings that are equal on the command line of train.py."""
    return frozenset((key, text(value)) for key, value in setting.items())


def text(value: object) -> str:
    """Return a value as train.py reads it on its command line."""
    return value if isinstance(value, str) else repr(value)


def as_pairs(setting: Setting) -> tuple[str, ...]:
    """Return the KEY VALUE pairs of a setting, for train.py."""
    return tuple(word for key, value in setting.items() for word in (key, text(value)))


def setting_text(setting: Setting) -> str:
    """Return a setting as text: `OPTIM.LR=0.01 OPTIM.MAX_EPOCH=50`."""
    return " ".join(f"{key}={text(value)}" for key, value in setting.items())
