"""Versions, devices and settings that runs were made with, from their records."""

from collections.abc import Iterable
from typing import NamedTuple

from trainers.prompting.errors import printable

from ..records import value_at


class Section(NamedTuple):
    """A section of the page: its anchor, heading, and a sentence without its period."""

    name: str
    title: str
    summary: str = ""


SHARED = {"OPTIM.NAME": "OPTIM", "OPTIM.LR": "LR", "OPTIM.MAX_EPOCH": "MAX_EPOCH",
          "OPTIM.STEPS": "STEPS", "DATALOADER.TRAIN_X.BATCH_SIZE": "BATCH_SIZE"}  # fmt: skip


def facts(results: Iterable[dict]) -> dict[str, str]:
    """Return facts about runs (backbone, commit, versions, ...) by term, from their records."""
    results = list(results)
    versions = [result.get("versions") or {} for result in results]
    said = {
        "Backbone": [result.get("backbone") for result in results],
        "Commit": [(result.get("git") or "")[:12] for result in results],
        "PyTorch": [version.get("torch") for version in versions],
        "Python": [version.get("python") for version in versions],
        "Precision": [result.get("precision") for result in results],
        "Device": [version.get("device") for version in versions],
    }
    terms = {
        term: ", ".join(sorted({str(v) for v in values if v})) for term, values in said.items()
    }
    terms["Runs"] = f"{len(results):,}"
    return {term: printable(text) for term, text in terms.items() if text}


def training_settings(result: dict) -> dict[str, object]:
    """Return the settings of a training by their last names: those of its method, and OPTIM's."""
    config = result.get("config") or {}
    method = str(result.get("trainer")).upper()
    nodes = {name.replace("_", "").upper(): node for name, node in _group(config, "TRAINER")}
    node = nodes.get(method)
    values = dict(node) if isinstance(node, dict) else {}
    if result.get("num_params") != 0:
        values |= {name: value_at(config, key) for key, name in SHARED.items()}
    return {key: value for key, value in values.items() if value not in (None, "", [], 0)}


def _group(config: dict, name: str) -> list[tuple[str, object]]:
    group = config.get(name)
    return [*group.items()] if isinstance(group, dict) else []
