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

Tested = TypeVar("Tested")
Found = TypeVar("Found")

MISSING = "no predictions, repeat with TEST.PREDICTIONS True"
OTHERS = "predictions that are not those of its results.json, repeat the run"
NO_JOINT = "results without columns over base and new classes together, repeat the run"
OTHER_ORDER = "predictions that do not number base classes before new ones, repeat the run"


class Answers(NamedTuple):
    """The answers of one run to the n images that `images` stands for.

    `hits` (n,), whether right. Of `joint_answers` also, over base and new classes together,
    `joint_hits` (n,), and `base_score` (n,), the greatest probability of a base class.
    """

    images: str
    hits: np.ndarray
    joint_hits: np.ndarray | None = None
    base_score: np.ndarray | None = None


def each_seed(
    outcomes: Mapping[int, Tested], read: Callable[[Tested], Found]
) -> tuple[dict[int, Found], dict[str, list[int]]]:
    """Read something of each run, or of runs that go together.

    Returns:
        What is found, by seed; and the problems, with their seeds.
    """
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
    return _answers(_in_order(arrays_of(outcome)))


@functools.lru_cache(maxsize=4096)
def joint_answers(outcome: Outcome) -> Answers:
    """The answers of a run, also over base and new classes together.

    Raises:
        UserError: as `joint_arrays`.
    """
    arrays = _in_order(joint_arrays(outcome))
    joint_hits = arrays["joint_prediction"] == arrays["joint_label"]
    of_half = _answers(arrays)
    return of_half._replace(joint_hits=joint_hits, base_score=arrays["base_probability"])


def joint_arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """The predictions of a run on base or new classes that has the columns over both together.

    Raises:
        UserError: as `arrays_of`; it has none, or its classes are in another order.
    """
    arrays = arrays_of(outcome)
    if "joint_label" not in arrays:
        raise UserError((outcome.result or {}).get("joint_note") or NO_JOINT)
    shift = np.unique(arrays["joint_label"] - arrays["label"])
    if len(shift) > 1 or (shift[0] == 0) != (outcome.run.subsample == "base"):
        raise UserError(OTHER_ORDER)
    return arrays


def _answers(arrays: dict[str, np.ndarray]) -> Answers:
    images = hashlib.sha256(arrays["image"].tobytes() + arrays["label"].tobytes())
    return Answers(images.hexdigest(), arrays["prediction"] == arrays["label"])


def motifs(outcome: Outcome, column: str) -> list[str]:
    """The motif of each test image of a run, in the order of its answers."""
    image = _in_order(arrays_of(outcome))["image"]
    return [motif(outcome.run.dataset, f"{column}/{name}") for name in image]


def classes(outcome: Outcome, column: str) -> list[str]:
    """The class of each test image of a run, in the order of its answers.

    By its name, which data sets may share; by number where several classes have one name.
    """
    label = _in_order(arrays_of(outcome))["label"]
    result = outcome.result or {}
    names = list(result.get("per_class_accuracy") or {})
    if len(names) != result.get("num_classes"):
        return [f"{outcome.run.dataset}/{column}/{number}" for number in label]
    return [names[number] for number in label]


def _in_order(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of the images in an order that all runs share."""
    order = np.lexsort((arrays["label"], arrays["image"]))
    return {name: array[order] for name, array in arrays.items()}
