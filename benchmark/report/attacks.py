"""Sentences of tables on attacks: those of a test or a training, and those that are too weak."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .frame import each_row
from .training import ATTACK

NOTE = (
    "Of lines with an attack, accuracy is that before it; `report --metrics` has Robust, the "
    "accuracy on attacked images."
)
STATIC_NOTE = (
    "static: attacked before the method adapts to the image, which an adaptive attack would not "
    "wait for."
)


def note(rows: Iterable[Any]) -> list[str]:
    """Return sentences on the attacks of rows of tables, if there are any."""
    texts = [text for row in rows if (text := dict(row.settings).get(ATTACK))]
    return [NOTE] * bool(texts) + [STATIC_NOTE] * any("static" in text for text in texts)


def too_weak(numbers: pd.DataFrame) -> list[str]:
    """Return a sentence for each attack that others show to be weak, or that found no gradient.

    `numbers` are rows of the metric `robust_accuracy` in one place.
    """
    found = {}
    for row in each_row(numbers.drop_duplicates("name")):
        if why := _facts(row).get("weak"):
            found[row.name] = f"{row.name}: attack too weak: {why}"
    for _, members in numbers.assign(of=[*map(_place, each_row(numbers))]).groupby("of"):
        means = members.groupby("name")["value"].mean()
        best = means.idxmin()
        for name in means.index[means > means[best] + 1]:
            text = f"{name}: attack too weak: {means[best]:.2f}% are left by {best}"
            found.setdefault(name, text)
    return [*found.values()]


def _place(row: Any) -> tuple:
    """Return what attacks of the same method that may be compared share."""
    facts, others = _facts(row), [pair for pair in row.settings if pair[0] != ATTACK]
    return row.method, str(others), facts.get("eps"), facts.get("images")


def _facts(row: Any) -> dict:
    return row.outcome.result.get(ATTACK) or {}
