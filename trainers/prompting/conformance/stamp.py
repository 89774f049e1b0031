"""The checks of a plug-in before a run, once for its code and keys."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from ..building.keys import value_at
from ..errors import UserError, in_short
from ..method import METHODS, Method
from ..plugins import code_of
from ..record.hashes import plugin_folder
from ..running.seeding import seeded
from ..storage.files import write_whole
from ..trainer.evaluation import is_foreign
from .checks import CHECKS, TIME_IS_UP, lines
from .data_sets import check_split
from .short import SEED, ShortRun, shorten

STAMPS = Path("~/.cache/align/checked")
SECONDS = 15.0  # after which no further check begins
OURS = ("datasets", "dassl")  # packages whose data sets are no plug-in's


def check_once(cfg: CfgNode) -> str | None:
    """Check the method and the data set of a run that are of a plug-in, if not yet as they are.

    What may be a mistake is printed.

    Returns:
        How the method was checked, for the record; None for a built-in one or another trainer.
    """
    kind, data = METHODS.get(cfg.TRAINER.NAME), DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if not cfg.TRAINER.PLUGINS:
        return None
    images = not cfg.DATASET.get("FEATURES", "")
    if images and data.__module__.partition(".")[0] not in OURS and hasattr(data, "look"):
        _once(data, cfg.DATASET.ROOT, lambda: check_split(cfg))
    if kind is None or not is_foreign(kind):
        return None
    values = {key: value_at(cfg, kind.place(key)) for key in kind.defaults}
    return _once(kind, str(values), lambda: _check(cfg, kind, values))


def _once(kind: type, more: str, check: Callable[[], str]) -> str:
    """Return what a check says, or what it said of the same code and text before."""
    content = json.dumps([code_of(kind), more], sort_keys=True).encode()
    file = STAMPS.expanduser() / f"{kind.__name__}-{hashlib.sha256(content).hexdigest()[:16]}.txt"
    if file.is_file():
        return file.read_text()
    said = check()
    with suppress(OSError):  # a home without room, or none: each run checks
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, said)
    return said


def _check(cfg: CfgNode, kind: type[Method], values: Mapping[str, Any]) -> str:
    name, why = kind.__name__, ""
    with tempfile.TemporaryDirectory() as folder, seeded(SEED):
        for which, tried in _keys(cfg, kind, values):
            try:
                run = ShortRun(shorten(cfg, folder, tried))
            except Exception as error:  # deeper than the embedded CLIP, another teacher, a mistake
                why = why or in_short(error)
                continue
            if why:
                print(f"The config of {name} was not checked, as on the embedded CLIP: {why}")
            return _say(name, which, run)
    print(f"{name} was not checked, as on the embedded CLIP: {why}")
    return f"not checked: {why}"


def _keys(
    cfg: CfgNode, kind: type[Method], values: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the keys of the run, those for the embedded CLIP beside the plug-in, the defaults."""
    yield "the run's keys", values
    for plugin in cfg.TRAINER.PLUGINS:
        file = (plugin_folder(plugin) or Path()) / kind.__name__ / "emoji.yaml"
        if file.is_file():
            node = (yaml.safe_load(file.read_text("utf-8")) or {}).get("TRAINER", {})
            own = node.get(kind.node, {})
            yield "emoji.yaml", {key: own[key] for key in kind.defaults.keys() & own.keys()}
    yield "its default keys", {}


def _say(name: str, which: str, run: ShortRun) -> str:
    """Print what the checks find, and return what the record says of them."""
    left = 0
    for state, _, why in lines(lambda: run, CHECKS, SECONDS):
        if state == "wrong":
            raise UserError(
                f"{why} (found before the first run of {name} as it is: `python -m benchmark "
                f"check-method {name}` does all checks)"
            )
        if state == "note":
            print(f"Note: {why}")
        left += state == "-" and why == TIME_IS_UP
    more = f", {left} of them left out after {SECONDS:.0f} seconds" if left else ""
    print(f"{name}: checked on the embedded CLIP with {which}{more}")
    return f"with {which}{more}"
