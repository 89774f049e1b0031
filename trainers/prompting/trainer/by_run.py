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

from collections.abc import Iterable, Iterator, Mapping

SECTIONS = ("BY_CLASSES", "BY_SHOTS", "BY_DATASET")
OTHER = "other"


def for_run(
    keys: Mapping[str, object], dataset: str, shots: object, classes: str
) -> dict[str, object]:
    """Return the dotted keys of a config file for one run, with its sections resolved.

    Args:
        keys: dotted keys and values, with sections.
        dataset: DATASET.NAME of the run.
        shots: DATASET.NUM_SHOTS of the run.
        classes: DATASET.SUBSAMPLE_CLASSES of the run.
    """
    return _chosen(keys, dict(zip(SECTIONS, (classes, str(shots), dataset), strict=True)))


def plain_key(key: str) -> str:
    """Return the key that an entry sets: OPTIM.MAX_EPOCH for `BY_SHOTS.1.OPTIM.MAX_EPOCH`."""
    while key.partition(".")[0] in SECTIONS:
        key = key.split(".", 2)[2]
    return key


def by_dataset(sources: Iterable[Mapping[str, object]]) -> set[str]:
    """Return the keys whose value depends on the data set.

    Args:
        sources: dotted keys and values, with sections. Later ones replace earlier ones.
    """
    found: set[str] = set()
    for keys in sources:
        plain = {plain_key(key) for key in keys}
        found -= plain
        found |= {plain_key(key) for key in keys if "BY_DATASET" in key.split(".")}
    return found


def _chosen(keys, run: dict[str, str]) -> dict[str, object]:
    found = {key: value for key, value in keys.items() if key.partition(".")[0] not in run}
    for section, name in run.items():
        if inside := _below(keys, section):
            named = {key.partition(".")[0] for key in inside}
            found |= _chosen(_below(inside, name if name in named else OTHER), run)
    return found


def _below(keys, name: str) -> dict[str, object]:
    return {k.removeprefix(f"{name}."): v for k, v in keys.items() if k.startswith(f"{name}.")}


def leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key and the value of every entry of a config."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
