"""Whether runs were right about each test image, from their predictions."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
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


def answers(runs: Mapping[int, Outcome]) -> tuple[dict[int, Answers], dict[str, list[int]]]:
    """What these runs answered, by seed; and what is not to be had, with the seeds."""
    return each_seed(runs, _answers)


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


def arrays_of(folder: Path, accuracy: float, classes: float | None) -> dict[str, np.ndarray]:
    """The predictions of a run.

    Args:
        folder: of the run.
        accuracy: in %, as its results have it.
        classes: their number, where its results have it.

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
    return outcome.run.folder, outcome.accuracy, (outcome.result or {}).get("num_classes")


def _answers(outcome: Outcome) -> Answers:
    return _read(*facts(outcome))


@functools.lru_cache(maxsize=4096)
def _read(folder: Path, accuracy: float, classes: float | None) -> Answers:
    """What a run answered; arguments and errors are those of `arrays_of`."""
    image, label, prediction = _in_order(folder, accuracy, classes)
    images = hashlib.sha256(image.tobytes() + label.tobytes())
    return Answers(images.hexdigest(), prediction == label)


def motifs(outcome: Outcome, column: str) -> list[str]:
    """The motif of each test image of a run, in the order of its answers."""
    image, _, _ = _sorted(outcome)
    return [motif(outcome.run.dataset, f"{column}/{name}") for name in image]


def classes(outcome: Outcome, column: str) -> list[str]:
    """The class of each test image of a run, in the order of its answers.

    By its name, which data sets may share; by number where several classes have one name.
    """
    _, label, _ = _sorted(outcome)
    names = list((outcome.result or {}).get("per_class_accuracy") or {})
    if len(names) != (outcome.result or {}).get("num_classes"):
        return [f"{outcome.run.dataset}/{column}/{number}" for number in label]
    return [names[number] for number in label]


def _sorted(outcome: Outcome) -> tuple[np.ndarray, ...]:
    return _in_order(*facts(outcome))


def _in_order(folder: Path, accuracy: float, classes: float | None) -> tuple[np.ndarray, ...]:
    """The file, label and prediction of each image, in an order that all runs share."""
    arrays = arrays_of(folder, accuracy, classes)
    order = np.lexsort((arrays["label"], arrays["image"]))
    return tuple(arrays[name][order] for name in ("image", "label", "prediction"))
