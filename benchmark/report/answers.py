"""Whether runs were right about each test image, from their predictions."""

import functools
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipe.predictions import read_predictions
from trainers.prompting.errors import UserError

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
    arrays = read_predictions(folder)
    if arrays is None:
        raise UserError(MISSING)
    order = np.lexsort((arrays["label"], arrays["image"]))
    hits = (arrays["prediction"] == arrays["label"])[order]
    if abs(100 * hits.mean() - accuracy) > 0.01:
        raise UserError(OTHERS)
    images = hashlib.sha256(arrays["image"][order].tobytes() + arrays["label"][order].tobytes())
    return Answers(images.hexdigest(), hits)
