"""Right and wrong answers of runs, image by image, and metrics of them."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError, need
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.record.scores import read_scores
from trainers.prompting.record.several import contributions

from ..records import Outcome
from .frame import main_rows
from .names import motif, seeds_text
from .paired import Pair, difference

Tested = TypeVar("Tested")
Value = TypeVar("Value")

MISSING = "no predictions; repeat the run with TEST.PREDICTIONS True"
OF_TASKS = "no predictions, since images recur in the tasks of its TEST.STREAM"
OTHERS = "predictions that do not match results.json; repeat the run"
NO_JOINT = "no predictions over base and new classes together; repeat the run"


class Answers(NamedTuple):
    """The answers of one run to n test images.

    Of a run on tasks (TEST.STREAM), `images` are a hash of its n tasks, which other seeds draw
    anew, and `hits` their accuracies, from 0 to 1. Of a run on images with several labels, `hits`
    are their `contributions` to mAP.
    """

    images: str  # a hash of the images and their labels; equal for runs on the same test set
    hits: np.ndarray  # (n,) bool, True where the prediction is right


def each_seed(
    outcomes: Mapping[int, Tested], read: Callable[[Tested], Value]
) -> tuple[dict[int, Value], list[str]]:
    """Return what `read` returns of each seed, and the messages of UserErrors with their seeds."""
    values, problems = {}, defaultdict(list)
    for seed, outcome in outcomes.items():
        try:
            values[seed] = read(outcome)
        except UserError as error:
            problems[str(error)].append(seed)
    return values, [f"{why} [{seeds_text(seeds)}]" for why, seeds in problems.items()]


def arrays_of(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the predictions, or with several labels the scores, of a finished run, by image."""
    several = outcome.metric == "map"
    arrays = (read_scores if several else read_predictions)(outcome.run.folder)
    if arrays is None:
        raise UserError(OF_TASKS if tasks_of(outcome) else MISSING)
    label = arrays["label"]
    if not several:
        right = 100 * (arrays["prediction"] == label).mean()
        need(abs(right - outcome.number) <= 0.01, OTHERS)
    order = np.lexsort((*label.reshape(len(label), -1).T, arrays["image"]))
    return {name: array[order] for name, array in arrays.items()}


def tasks_of(outcome: Outcome) -> list[float]:
    """Return the accuracies (%) of the tasks of a run; none if it has none."""
    tasks: list[float] = ((outcome.result or {}).get("tasks") or {}).get("accuracy") or []
    return tasks


@functools.lru_cache(maxsize=4096)
def answers(outcome: Outcome) -> Answers:
    """Return the answers of a run (cached)."""
    if tasks := tasks_of(outcome):
        order = ((outcome.result or {}).get("stream") or {}).get("order")
        return Answers(str(order), np.array(tasks) / 100)
    arrays = arrays_of(outcome)
    images = hashlib.sha256(arrays["image"].tobytes() + arrays["label"].tobytes()).hexdigest()
    if outcome.metric == "map":
        gains = contributions(arrays["label"], arrays["logit"])
        need(abs(100 * gains.mean() - outcome.number) < 0.01, OTHERS)
        return Answers(images, gains)
    return Answers(images, arrays["prediction"] == arrays["label"])


def joint_arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the predictions of a run on base or new classes, with the joint columns."""
    arrays = arrays_of(outcome)
    if "joint_label" not in arrays:
        raise UserError((outcome.result or {}).get("joint_note") or NO_JOINT)
    return arrays


def motifs(outcome: Outcome, column: str) -> list[str]:
    """Return the motif of each test image of a run, in the order of its answers; of tasks numbers.

    Tasks of several seeds that have one number are other draws, as are those of one seed.
    """
    if tasks := tasks_of(outcome):
        return [f"{outcome.run.dataset}/{column}/task {i}" for i in range(len(tasks))]
    names = arrays_of(outcome)["image"]
    return [motif(outcome.run.dataset, f"{column}/{name}") for name in names]


def half_intervals(tidy: pd.DataFrame) -> dict[tuple, tuple[float, list[str]]]:
    """Return half of the 95% interval of each mean of mAP, by line and column, and its problems.

    The interval is about other test images and, with several seeds, other seeds.
    """
    found = {}
    rows = main_rows(tidy)
    rows = rows[(rows["metric"] == "map") & rows["value"].notna()]
    for place, runs in rows.groupby(["line", "column"], sort=False):
        outcomes = dict(zip(runs["seed"], runs["outcome"], strict=True))
        by_seed, problems = each_seed(outcomes, answers)
        if len({answer.images for answer in by_seed.values()}) > 1:
            problems.append("no interval, as seeds have other test images")
        half = float("nan")
        if not problems:
            ours = np.stack([answer.hits for answer in by_seed.values()])
            pair = Pair(np.arange(ours.shape[1]), np.array([*by_seed]), ours, np.zeros_like(ours))
            about = difference([[pair]])
            half = (about.high - about.low) / 2
        found[place] = half, problems
    return found
