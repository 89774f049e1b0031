"""Whether runs were right about each test image, from their predictions."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipe.predictions import read_predictions
from trainers.prompting.errors import UserError

from .results import Outcome
from .rows import Row

MISSING = "no predictions, repeat with TEST.PREDICTIONS True"
OTHERS = "predictions that are not those of its results.json, repeat the run"


class Answers(NamedTuple):
    """What one run answered to the images that `images` stands for; `hits` (n,), whether right."""

    images: str
    hits: np.ndarray


def answers(row: Row, column: str) -> tuple[dict[int, Answers], dict[str, list[int]]]:
    """What the runs of a row answered, by seed; and what is not to be had, with the seeds."""
    return each_seed(row.outcomes[column], _answers)


def each_seed(
    outcomes: Mapping[int, Outcome], read: Callable[[Outcome], object]
) -> tuple[dict[int, object], dict[str, list[int]]]:
    """Read something of each run: what is found, by seed; and the problems, with their seeds."""
    found, problems = {}, defaultdict(list)
    for seed, outcome in outcomes.items():
        try:
            found[seed] = read(outcome)
        except UserError as error:
            problems[str(error)].append(seed)
    return found, dict(problems)


def arrays_of(folder: Path, accuracy: float, classes: float | None) -> dict[str, np.ndarray]:
    """The predictions of a run.

    Args:
        folder: of the run.
        accuracy: in %; classes: their number, where it is known; as its results have them.

    Raises:
        UserError: it left none, or they are not those of its results.
    """
    arrays = read_predictions(folder)
    if arrays is None:
        raise UserError(MISSING)
    label, prediction = arrays["label"], arrays["prediction"]
    if abs(100 * (prediction == label).mean() - accuracy) > 0.01:
        raise UserError(OTHERS)
    if classes is not None and max(label.max(), prediction.max()) >= classes:
        raise UserError(OTHERS)
    return arrays


def facts(outcome: Outcome) -> tuple:
    """The arguments of `arrays_of`."""
    return outcome.run.folder, outcome.result["accuracy"], outcome.result.get("num_classes")


def _answers(outcome: Outcome) -> Answers:
    return _read(*facts(outcome))


@functools.lru_cache(maxsize=4096)
def _read(folder: Path, accuracy: float, classes: float | None) -> Answers:
    """Read what a run answered; arguments and errors are those of `arrays_of`."""
    arrays = arrays_of(folder, accuracy, classes)
    order = np.lexsort((arrays["label"], arrays["image"]))
    hits = (arrays["prediction"] == arrays["label"])[order]
    images = hashlib.sha256(arrays["image"][order].tobytes() + arrays["label"][order].tobytes())
    return Answers(images.hexdigest(), hits)
