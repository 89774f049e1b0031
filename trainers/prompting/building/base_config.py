"""Config files that have another one as their base: `BASE: METHOD/CONFIG`.

Such a file has all keys of METHOD/CONFIG.yaml, with its own in their place. Needs no PyTorch.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.identity import leaves
from ..errors import UserError
from .by_run import nest, plain_key

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = _PACKAGE / "configs"  # of the package that pip installs
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parents[1] / "configs" / "trainers"  # of the checkout
_readers: dict[type, Callable[[Any, str], None]] = {}  # class of a cfg: its own merge_from_file


def split_base(
    path: str | os.PathLike, read: Callable[[str | os.PathLike], Mapping]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the dotted keys that a config file has from its base, and its own.

    The base is METHOD/CONFIG.yaml next to the file's folder, or else in this project's configs.

    Args:
        path: of the file.
        read: returns the nested keys of a file.
    """
    keys = dict(leaves(read(path)))
    if "BASE" not in keys:
        return {}, keys
    name = keys.pop("BASE")
    places = [folder / f"{name}.yaml" for folder in (Path(path).absolute().parents[1], CONFIGS)]
    base = next((place for place in places if place.is_file()), None)
    if base is None:
        raise UserError(
            f"The config file '{path}' has BASE {name}, but there is no such file in "
            f"'{Path(path).absolute().parents[1]}' or '{CONFIGS}': copy {name}.yaml, too, or name "
            "another METHOD/CONFIG"
        )
    own = {plain_key(key) for key in keys}
    inherited, kept = split_base(base, read)
    return {k: v for k, v in (inherited | kept).items() if plain_key(k) not in own}, keys


def read_bases(cfg: Any) -> None:
    """Let `merge_from_file` of a cfg's class read BASE, which yacs does not know.

    It is set on the class: on one cfg it would be lost in a clone, and could not be pickled.
    """
    kind = type(cfg)
    if kind.merge_from_file is not merge_from_file:
        _readers[kind] = kind.merge_from_file
        kind.merge_from_file = merge_from_file


def merge_from_file(cfg: Any, cfg_filename: str) -> None:
    """Set the keys of a file in a cfg, as yacs does, with those of its base; raises as it does."""
    reader = next(_readers[kind] for kind in type(cfg).__mro__ if kind in _readers)
    if not re.search(rb"^BASE:", Path(cfg_filename).read_bytes(), re.MULTILINE):
        return reader(cfg, cfg_filename)
    inherited, own = split_base(cfg_filename, _read)
    cfg.merge_from_other_cfg(type(cfg)(nest(inherited | own)))


def _read(path: str | os.PathLike) -> Mapping:
    import yaml

    tree: Mapping = yaml.safe_load(Path(path).read_bytes())
    return tree
