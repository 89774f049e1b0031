"""Dotted keys: out of config files and command lines, into a cfg. Needs no PyTorch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import yaml

from trainers.prompting.errors import UserError, nearest
from trainers.prompting.trainer.by_run import leaves

MOST_VALUES = 100_000  # of a config file


def read_keys(path: str | os.PathLike) -> dict[str, object]:
    """The dotted keys of a config file, e.g. `OPTIM.LR`, and their values; raises as read_tree."""
    return dict(leaves(read_tree(path)))


def read_tree(path: str | os.PathLike) -> dict:
    """The keys in a YAML file.

    Raises:
        UserError: there is no such file, it is not YAML, or it holds no keys.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"The config file '{path}' has no keys: it is to have lines of KEY: VALUE")
    return tree


def read_yaml(path: str | os.PathLike) -> object:
    """What is in a YAML file; an empty mapping when that is nothing.

    Raises:
        UserError: there is no such file, it is not YAML, or it has too many values.
    """
    try:
        with open(path, "rb") as file:  # UTF-8, whatever the locale
            found = yaml.safe_load(file) or {}
        too_many = next(islice(_values(found), MOST_VALUES, None), None)
    except OSError:
        near = sorted(str(p) for p in Path(path).parent.glob("*.yaml"))
        hint = f"that folder has {', '.join(near)}" if near else "look into configs/"
        raise UserError(f"There is no config file '{path}': {hint}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"The config file '{path}' is not YAML: {' '.join(str(error).split())}"
        ) from None
    if too_many:
        raise UserError(
            f"The config file '{path}' has more than {MOST_VALUES:,} values: aliases repeat them"
        )
    return found


def _values(tree: object) -> Iterator[bool]:
    """An item for each value, mapping and list, as often as aliases repeat it."""
    yield True
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _values(value)


def prompts_for(backbone: str | None, config_file: str | os.PathLike) -> dict[str, object]:
    """What takes the place of a config file's TRAINER where it is written for another backbone.

    That is the TRAINER of the file beside it with the backbone's name, if there is one: a small
    CLIP has no room for prompts as deep as those of a large one.

    Args:
        backbone: as the user names it.
        config_file: of the method; may be empty.
    """
    if not backbone or "/" in backbone or not config_file:
        return {}
    own = Path(config_file).with_name(f"{backbone}.yaml")
    if read_keys(config_file).get("MODEL.BACKBONE.NAME", backbone) == backbone or not own.is_file():
        return {}
    return {key: v for key, v in read_keys(own).items() if key.startswith("TRAINER.")}


def nested(keys: Mapping[str, object]) -> dict:
    """The mapping of mappings that `leaves` makes these dotted keys of."""
    tree: dict = {}
    for key, value in keys.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def read_pairs(words: Sequence[str]) -> dict[str, str]:
    """The KEY VALUE pairs at the end of a command line; of a key that is there twice the last.

    Raises:
        UserError: a key has no value.
    """
    words = words[1:] if words and words[0] == "--" else words
    if len(words) % 2:
        raise UserError(f"The pairs at the end are not KEY VALUE: '{' '.join(words)}'")
    return dict(zip(words[::2], words[1::2], strict=True))


def merge(cfg, keys: Mapping[str, object], source: str) -> None:
    """Set dotted keys of a cfg.

    Args:
        cfg: a yacs node.
        keys: values by dotted key; text is read as a Python literal where it is one.
        source: where they come from, for the message.

    Raises:
        UserError: a key is unknown (with the nearest valid one), or a value of the wrong type.
    """
    for key, value in keys.items():
        parent, name = _find(cfg, key, source)
        default = parent[name]
        if isinstance(default, float) and isinstance(value, (int, str)):
            value = _as_float(value)
        if name == "CTX_INIT":  # words, or a list of them, one a prompt
            parent[name] = None  # yacs lets any type replace None
        try:
            parent.merge_from_list([name, value])
        except (ValueError, AssertionError):
            parent[name] = None
        if parent[name] is None and default is not None:
            raise UserError(
                f"{source} sets '{key}' to '{value}', but it must be of type "
                f"{type(default).__name__}"
            )


def _find(cfg, key: str, source: str) -> tuple:
    """The node that holds a dotted key, and the key's last part."""
    node, path = cfg, key.split(".")
    for depth, part in enumerate(path):
        valid = list(node) if isinstance(node, Mapping) else []
        if part not in valid:
            where = ".".join(path[:depth]) or "the cfg"
            raise UserError(
                f"{source} sets '{key}', but {where} has no '{part}': {nearest(part, valid)}"
            )
        parent, node = node, node[part]
    return parent, path[-1]


def _as_float(value: int | str) -> object:
    """`1` for 1.0, and `nan` or `inf`, which are no Python literals; the rest as it is."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except ValueError:
        return value
