"""Reliability diagrams and confusion matrices, drawn from predictions."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from trainers.prompting.errors import printable
from trainers.prompting.record.metrics import BINS, reliability

from ..records import PER_CLASS, Outcome
from .classes import Test
from .per_image import arrays_of, each_seed
from .plots import RC, Drawing

COLUMNS = 3  # panels side by side
MOST_NUMBERS = 12  # with more classes, numbers in cells are unreadable
MOST_NAMES = 40  # with more classes, class names are unreadable
BARS = "Bars: accuracy in each bin of confidence; dots: the same at its mean confidence; below: {}"


class Pool(NamedTuple):
    """Labels, predictions and their probabilities, each (n,), of all seeds of a method."""

    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    seeds: int
    names: list[str]  # of the classes, or none
    errors: list[float]  # expected calibration errors (%), as in the table


def figures(tests: list[Test], kinds: Sequence[str]) -> Drawing:
    """Draw figures of each test, with a panel for each method; `kinds` are keys of PICTURES.

    Runs without predictions are skipped, which is said.
    """
    drawings = {}
    for test in tests:
        if "map" in {*test.lines["main"]}:  # images have no single class
            continue
        by_method = {
            method: pool
            for method in test.lines["name"]
            if (pool := _pool(test.outcomes(method), f"{method}, {test.where}"))
        }
        for kind in kinds if by_method else ():
            drawings[f"{kind}_{test.name}"] = draw_panels(by_method, kind, test.where)
    return drawings


def figures_of_run(outcome: Outcome, where: str) -> Drawing:
    """Draw the confusion matrix and reliability diagram of a run."""
    method = printable((outcome.result or {}).get("trainer"))
    one_label = outcome.metric == "accuracy"
    pool = _pool({outcome.run.seed: outcome}, method) if one_label else None
    if pool is None:
        return {}
    return {name: draw_panels({method: pool}, name, where) for name in PICTURES}


def _pool(outcomes: Mapping[int, Outcome], where: str) -> Pool | None:
    """Return what all seeds of a method say, or None if they saved nothing; name those skipped."""
    by_seed, problems = each_seed(outcomes, arrays_of)
    for why in problems:
        print(printable(f"not in the plots: {where}: {why}"), file=sys.stderr)
    if not by_seed:
        return None
    results = [outcome.result or {} for outcome in outcomes.values()]
    # runs may keep different numbers of the likeliest classes
    columns = [
        (arrays["label"], arrays["prediction"], arrays["probability"][:, 0])
        for arrays in by_seed.values()
    ]
    label, prediction, confidence = map(np.concatenate, zip(*columns, strict=True))
    names = [*next(filter(None, (result.get(PER_CLASS) for result in results)), ())]
    errors = [e for result in results if (e := result.get("calibration_error")) is not None]
    return Pool(label, prediction, confidence, len(by_seed), [*map(printable, names)], errors)


def draw_panels(by_method: Mapping[str, Pool], name: str, where: str) -> tuple[Figure, str]:
    """Return a figure with a panel for each method, and a sentence that describes it."""
    sentence, panel, (width, height), alone = PICTURES[name]
    columns = min(COLUMNS, len(by_method))
    lines = math.ceil(len(by_method) / columns)
    seeds = max(pool.seeds for pool in by_method.values())
    with matplotlib.rc_context(RC):
        size = (width * columns, height * lines + 0.6) if len(by_method) > 1 else alone
        figure = Figure(figsize=size, layout="compressed")  # around panels of fixed shape
        figure.suptitle(where, fontsize="medium", wrap=True)
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis in axes[len(by_method) :]:
            axis.remove()
        used_axes = axes[: len(by_method)]
        pools = zip(used_axes, by_method.items(), strict=True)
        for number, (axis, (method, pool)) in enumerate(pools):
            image = panel(axis, method, pool, number % columns == 0)
        if image is not None:
            figure.colorbar(image, ax=list(used_axes), shrink=0.6).set_label(
                "Share of the true class"
            )
    images = "images" if seeds == 1 else f"images, mean of {seeds} seeds"
    what = sentence.format(images)
    if name == "reliability":
        figure.supxlabel(what.replace("; ", "\n"), fontsize="x-small")
    return figure, f"{what}; {where}."


def _reliability(axis: Axes, name: str, pool: Pool, first: bool) -> None:
    hits = pool.prediction == pool.label
    confidences, accuracies, counts = reliability(pool.confidence, hits)
    filled = counts > 0
    centres = (np.arange(BINS) + 0.5) / BINS
    axis.bar(centres[filled], accuracies[filled], 0.95 / BINS, color="#88CCEE")
    axis.plot(confidences[filled], accuracies[filled], "o", markersize=3, color="#332288")
    axis.plot([0, 1], [0, 1], "--", linewidth=0.8, color="#555555")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.tick_params(labelbottom=False)
    histogram = axis.inset_axes((0, -0.38, 1, 0.3), sharex=axis)
    # an image counts once, not once a seed
    histogram.bar(centres[filled], counts[filled] / pool.seeds, 0.95 / BINS, color="#BBBBBB")
    axis.set_xlabel("Confidence")  # of both, as the layout knows the labels of the upper only
    axis.xaxis.set_label_coords(0.5, -0.5)
    histogram.set_xticks([0, 0.5, 1])
    histogram.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    if first:
        for part, text in ((axis, "Accuracy"), (histogram, "Images")):
            part.set_ylabel(text)
            part.yaxis.set_label_coords(-0.27, 0.5)  # aligned
    # averaged over seeds, as in the table
    note = f": ECE {mean(pool.errors):.1f}%" if pool.errors else ""
    axis.set_title(name + note, fontsize="medium")


def _confusion(axis: Axes, name: str, pool: Pool, first: bool) -> AxesImage:
    classes = max(len(pool.names), 1 + int(max(pool.label.max(), pool.prediction.max())))
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (pool.label, pool.prediction), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a row adds up to 1
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axis.grid(False)
    axis.set_xlabel("Predicted class")
    axis.set_title(name, fontsize="medium")
    if classes <= MOST_NUMBERS:
        for (true, predicted), share in np.ndenumerate(matrix):
            if share:
                axis.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center",
                          fontsize=7, color="white" if share > 0.5 else "black")  # fmt: skip
    if len(pool.names) == classes <= MOST_NAMES:
        size, ticks = 6 if classes > 12 else 8, range(classes)
        axis.set_xticks(ticks, pool.names, rotation=90, fontsize=size)
        axis.set_yticks(ticks if first else [], pool.names if first else [], fontsize=size)
    if first:
        axis.set_ylabel("True class")
    return image


# By kind: a description, the function that draws a panel, its width and height in inches, and those
# of a figure of one panel.
PICTURES: dict[str, tuple[str, Callable, tuple[float, float], tuple[float, float]]] = {
    "reliability": (BARS, _reliability, (2.4, 3.5), (3.8, 5.6)),
    "confusion": (
        "Share of the predicted classes in each true class, from none (0) to strong blue (1), "
        "in percent where there are few classes",
        _confusion,
        (4.2, 4.32),
        (5.2, 4.92),
    ),
}
