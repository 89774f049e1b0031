"""Whether runs were right about each test image, from their predictions."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from recipe.predictions import read_predictions
from trainers.prompting.errors import UserError

from .names import motif
from .results import Outcome

Found = TypeVar("Found")

MISSING = "no predictions, repeat with TEST.PREDICTIONS True"
OTHERS = "predictions that are not those of its results.json, repeat the run"


class Answers(NamedTuple):
    """What one run answered to the images that `images` stands for; `hits` (n,), whether right."""

    images: str
    hits: np.ndarray


def each_seed(
    outcomes: Mapping[int, Outcome], read: Callable[[Outcome], Found]
) -> tuple[dict[int, Found], dict[str, list[int]]]:
    """Read something of each run: what is found, by seed; and the problems, with their seeds."""
    found, problems = {}, defaultdict(list)
    for seed, outcome in outcomes.items():
        try:
            found[seed] = read(outcome)
        except UserError as error:
            problems[str(error)].append(seed)
    return found, dict(problems)


def arrays_of(outcome: Outcome) -> dict[str, np.ndarray]:
    """The predictions of a run with results.

    Raises:
        UserError: it left none, or they are not those of its results.
    """
    arrays = (outcome.predictions or read_predictions)(outcome.run.folder)
    if arrays is None:
        raise UserError(MISSING)
    label, prediction = arrays["label"], arrays["prediction"]
    if abs(100 * (prediction == label).mean() - outcome.accuracy) > 0.01:
        raise UserError(OTHERS)
    number = (outcome.result or {}).get("num_classes")
    if number is not None and max(label.max(), prediction.max()) >= number:
        raise UserError(OTHERS)
    return arrays


@functools.lru_cache(maxsize=4096)
def answers(outcome: Outcome) -> Answers:
    """The answers of a run, which are read once.

    Raises:
        UserError: as `arrays_of`.
    """
    image, label, prediction = _in_order(outcome)
    images = hashlib.sha256(image.tobytes() + label.tobytes())
    return Answers(images.hexdigest(), prediction == label)


def motifs(outcome: Outcome, column: str) -> list[str]:
    """The motif of each test image of a run, in the order of its answers."""
    image, _, _ = _in_order(outcome)
    return [motif(outcome.run.dataset, f"{column}/{name}") for name in image]


def classes(outcome: Outcome, column: str) -> list[str]:
    """The class of each test image of a run, in the order of its answers.

    By its name, which data sets may share; by number where several classes have one name.
    """
    _, label, _ = _in_order(outcome)
    result = outcome.result or {}
    names = list(result.get("per_class_accuracy") or {})
    if len(names) != result.get("num_classes"):
        return [f"{outcome.run.dataset}/{column}/{number}" for number in label]
    return [names[number] for number in label]


def _in_order(outcome: Outcome) -> tuple[np.ndarray, ...]:
    """The file, label and prediction of each image, in an order that all runs share."""
    arrays = arrays_of(outcome)
    order = np.lexsort((arrays["label"], arrays["image"]))
    return tuple(arrays[name][order] for name in ("image", "label", "prediction"))
