"""Sections of a config file whose values apply to some runs only.

    BY_SHOTS:
      "1":
        OPTIM: {MAX_EPOCH: 50}
      other:
        OPTIM: {MAX_EPOCH: 200}
    BY_DATASET:
      ImageNet:
        OPTIM: {MAX_EPOCH: 25}

For those runs they replace the file's other values. The sections are BY_CLASSES (`all`, `base`,
`new`), BY_SHOTS and BY_DATASET: where several set a key, the last of these wins. `other` applies
where a section does not name the run's value. Sections may be nested. Needs no PyTorch.
"""

import re
from collections.abc import Iterable, Mapping

from ..errors import check_name, need

SECTIONS = ("BY_CLASSES", "BY_SHOTS", "BY_DATASET")
OTHER = "other"


def for_run(
    keys: Mapping[str, object], dataset: str, shots: object, classes: str
) -> dict[str, object]:
    """Return the dotted keys of a config file for one run, with its sections resolved.

    `dataset`, `shots` and `classes` are DATASET.NAME, NUM_SHOTS and SUBSAMPLE_CLASSES of the run.
    """
    return _choose(keys, dict(zip(SECTIONS, (classes, str(shots), dataset), strict=True)))


def plain_key(key: str) -> str:
    """Return the key that an entry sets: OPTIM.MAX_EPOCH for `BY_SHOTS.1.OPTIM.MAX_EPOCH`."""
    return _split(key)[1]


def _split(key: str) -> tuple[list[tuple[str, str]], str]:
    """Return the sections of an entry, each with the value that it names, and the plain key."""
    sections = []
    while key.partition(".")[0] in SECTIONS:
        section, name, key = key.split(".", 2)
        sections.append((section, name))
    return sections, key


def check_sections(keys: Iterable[str], source: str, datasets: Iterable[str]) -> None:
    """Check that the sections of a config (dotted keys) name runs that exist.

    `source` says where they come from, for the message; `datasets` are the names of all data sets.
    """
    names = {"BY_CLASSES": ("all", "base", "new", OTHER), "BY_DATASET": (*datasets, OTHER)}
    for section, name in {pair for key in keys for pair in _split(key)[0]}:
        if section in names:
            check_name(f"name in {section} of {source} called", name, names[section])
        else:
            need(
                name == OTHER or re.fullmatch(r"-?[0-9]+", name),
                f"{source} has '{name}' in {section}: give a number of shots, or {OTHER}",
            )


def by_dataset(sources: Iterable[Mapping[str, object]]) -> set[str]:
    """Return the keys whose value depends on the data set; later sources replace earlier ones."""
    by_dataset_keys: set[str] = set()
    for keys in sources:
        plain = {plain_key(key) for key in keys}
        by_dataset_keys -= plain
        by_dataset_keys |= {plain_key(key) for key in keys if "BY_DATASET" in key.split(".")}
    return by_dataset_keys


def _choose(keys, run: dict[str, str]) -> dict[str, object]:
    values = {key: value for key, value in keys.items() if key.partition(".")[0] not in run}
    for section, name in run.items():
        if section_keys := _below(keys, section):
            names = {key.partition(".")[0] for key in section_keys}
            values |= _choose(_below(section_keys, name if name in names else OTHER), run)
    return values


def _below(keys, name: str) -> dict[str, object]:
    return {k.removeprefix(f"{name}."): v for k, v in keys.items() if k.startswith(f"{name}.")}


def nest(keys: Mapping[str, object]) -> dict:
    """Return dotted keys as nested mappings: the inverse of `leaves`."""
    tree: dict = {}
    for key, value in keys.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
