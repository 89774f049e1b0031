"""Reads dotted keys from config files and command lines, and sets them in a cfg.

Needs no PyTorch.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainers.prompting.building.base_config import split_base
from trainers.prompting.errors import UserError, nearest

FEATURES = "DATASET.FEATURES"  # a file of features, in place of images
SENTENCES = "DATASET.SENTENCES"  # about the classes: a JSON file, a list by name, or templates
TRAINERS = Path(__file__).resolve().parents[1] / "configs" / "trainers"


def read_keys(path: str | os.PathLike) -> dict[str, object]:
    """Return the dotted keys (`OPTIM.LR`) and values of a config file, with those of its base.

    A file with `BASE: METHOD/CONFIG` has all keys of that file, with its own in their place.
    """
    inherited, own = split_base(path, read_tree)
    return inherited | own


def read_tree(path: str | os.PathLike) -> dict:
    """Return the nested keys of a YAML file; none if it is empty."""
    import yaml  # here, so that train.py can say that it is missing

    try:
        with open(path, "rb") as file:  # read as UTF-8 in any locale
            # of libyaml if PyYAML has it: a protocol reads hundreds, eight times as fast
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file)
            try:
                node = loader.get_single_node()
                twice = _given_twice(node, "", {}, set())
                tree = (node and loader.construct_document(node)) or {}
            finally:
                loader.dispose()
    except (FileNotFoundError, IsADirectoryError):
        near = [p.name for p in Path(path).parent.glob("[!.]*.yaml")]
        hint = f"in its folder, {nearest(Path(path).name, near)}" if near else "look into configs/"
        raise UserError(f"There is no config file '{path}': {hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"The config file '{path}' is not YAML: {' '.join(str(error).split())}"
        ) from None
    if twice:
        raise UserError(
            f"The config file '{path}' has {twice[0]} in line {twice[1]} and again in line "
            f"{twice[2]}: write it once"
        )
    if not isinstance(tree, dict):
        raise UserError(f"The config file '{path}' has no keys: write lines of KEY: VALUE")
    return tree


def _given_twice(node, above: str, lines: dict[str, int], done: set[int]) -> tuple | None:
    """Return the first dotted key that a YAML tree gives twice, with both lines; None if none.

    YAML takes the second value and drops the first; `OPTIM.LR` is the key `LR` below `OPTIM`.

    Args:
        node: the composed tree, or a part of it; None if the file is empty.
        above: the start of its keys.
        lines: key to line of the values before it.
        done: ids of the nodes before it, which aliases may repeat.
    """
    if node is None or node.id == "scalar" or id(node) in done:
        return None
    done.add(id(node))
    if node.id == "sequence":
        parts = [(f"{above}{i}", 0, value) for i, value in enumerate(node.value)]
    else:
        parts = [(f"{above}{k.value}", k.start_mark.line + 1, v) for k, v in node.value
                 if k.id == "scalar"]  # fmt: skip
    groups: dict[str, int] = {}  # of this mapping
    for name, line, value in parts:
        seen = groups if value.id == "mapping" else lines
        before = groups.get(name) or lines.get(name)
        if line and before:
            return name, before, line
        seen[name] = line
        if twice := _given_twice(value, f"{name}.", lines, done):
            return twice
    return None


def prompts_for(backbone: str | None, config_file: str | os.PathLike) -> dict[str, object]:
    """Return the TRAINER keys for a backbone other than that of the method's config file.

    They come from the file BACKBONE.yaml in the same folder, if it exists: a small CLIP has fewer
    blocks, and so takes shallower prompts, than a large one.

    Args:
        backbone: as the user names it.
        config_file: of the method; may be empty.

    Returns:
        Dotted keys and values; empty if nothing has to be replaced.
    """
    if not backbone or "/" in backbone or not config_file:
        return {}
    file = Path(config_file).with_name(f"{backbone}.yaml")
    if (
        read_keys(config_file).get("MODEL.BACKBONE.NAME", backbone) == backbone
        or not file.is_file()
    ):
        return {}
    return {key: v for key, v in read_keys(file).items() if key.startswith("TRAINER.")}


def read_pairs(words: Sequence[str]) -> dict[str, str]:
    """Return the KEY VALUE pairs at the end of a command line; the last value of a key wins."""
    words = words[1:] if words and words[0] == "--" else words
    if options := [key for key in words[::2] if key.startswith("--")]:
        raise UserError(f"{options[0]} follows a KEY VALUE pair: put options before all pairs")
    for word in words[::2]:
        check_no_equals(word)
    if len(words) % 2:
        raise UserError(
            f"The pairs at the end are not KEY VALUE: '{words[-1]}' has no value, or a value "
            "before it has no key"
        )
    return dict(zip(words[::2], words[1::2], strict=True))


def check_no_equals(word: str) -> None:
    """Raise UserError if a word sets a key as `KEY=VALUE`."""
    if re.match(r"[A-Z]\w*(\.\w+)+=", word):
        several = f"; for several values, --vary {word} of a script" * ("," in word)
        raise UserError(
            f"'{word}' has the form KEY=VALUE: write KEY VALUE, as in OPTIM.LR 0.01{several}"
        )


def merge(cfg, keys: Mapping[str, object], source: str) -> None:
    """Set dotted keys of a cfg; a text that is a Python literal is read as such."""
    for key, value in keys.items():
        parent, name = find(cfg, key, source)
        default = parent[name]
        if isinstance(default, float) and isinstance(value, (int, str)):
            value = _as_float(value)
        if isinstance(default, str) and isinstance(_as_float(value), float):
            value = repr(str(value))  # a word that is a number, such as a folder `2024`
        if name == "CTX_INIT":  # words, or a list with words for each prompt
            parent[name] = None  # yacs lets any type replace None
        try:
            parent.merge_from_list([name, value])
        except (ValueError, AssertionError):
            parent[name] = None
        if parent[name] is None and default is not None:
            raise UserError(
                f"{source} sets '{key}' to '{value}', but it must be of type "
                f"{type(default).__name__}, like its default {default!r}"
                + f" (several values are for --vary {key}={value} of a script)"
                * ("," in str(value))
            )


def find(cfg, key: str, source: str) -> tuple:
    """Return the node of a dotted key, and its last part; raises UserError with the nearest."""
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


def _as_float(value: object) -> object:
    """Convert numbers (`1`) and `nan` or `inf`, which are not Python literals; keep the rest."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def with_located_files(keys: Mapping[str, object], folder: str | os.PathLike) -> dict[str, object]:
    """Return keys whose files, DATASET.FEATURES and SENTENCES, start from a folder if relative."""
    located_keys = dict(keys)
    for key, end in ((FEATURES, ""), (SENTENCES, ".json")):
        file = located_keys.get(key)
        if isinstance(file, str) and file and file.endswith(end):
            located_keys[key] = os.path.join(folder, os.path.expanduser(file))
    return located_keys
