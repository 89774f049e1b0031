"""The answers of runs to each test image, and its motif and class, from their predictions."""

import functools
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipe.predictions import read_predictions
from trainers.prompting.errors import UserError

from .names import motif
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
    found, problems = {}, defaultdict(list)
    for seed, outcome in row.outcomes[column].items():
        try:
            found[seed] = _read(outcome.run.folder, row.values[column][seed])
        except UserError as error:
            problems[str(error)].append(seed)
    return found, dict(problems)


@functools.lru_cache(maxsize=4096)
def _read(folder: Path, accuracy: float) -> Answers:
    """What a run answered.

    Raises:
        UserError: it left no predictions, or they are not those of its results.
    """
    image, label, prediction = _sorted(folder)
    hits = prediction == label
    if abs(100 * hits.mean() - accuracy) > 0.01:
        raise UserError(OTHERS)
    return Answers(hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest(), hits)


def motifs(outcome: Outcome, column: str) -> list[str]:
    """The motif of each test image of a run, in the order of its answers."""
    image, _, _ = _sorted(outcome.run.folder)
    return [motif(outcome.run.dataset, f"{column}/{name}") for name in image]


def classes(outcome: Outcome, column: str) -> list[str]:
    """The class of each test image of a run, in the order of its answers.

    By its name, which data sets may share; by number where several classes have one name.
    """
    _, label, _ = _sorted(outcome.run.folder)
    names = list((outcome.result or {}).get("per_class_accuracy") or {})
    if len(names) != (outcome.result or {}).get("num_classes"):
        return [f"{outcome.run.dataset}/{column}/{number}" for number in label]
    return [names[number] for number in label]


def _sorted(folder: Path) -> tuple[np.ndarray, ...]:
    """The file, label and prediction of each image, in an order that all runs share.

    Raises:
        UserError: the run left no predictions, or they cannot be read.
    """
    arrays = read_predictions(folder)
    if arrays is None:
        raise UserError(MISSING)
    order = np.lexsort((arrays["label"], arrays["image"]))
    return tuple(arrays[name][order] for name in ("image", "label", "prediction"))
