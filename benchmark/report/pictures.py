"""Reliability diagrams and confusion matrices, drawn from predictions."""

import math
import sys
from collections.abc import Callable
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from recipe.metrics import BINS, reliability
from trainers.prompting.errors import printable

from .answers import arrays_of, each_seed
from .metrics import PER_CLASS, Test
from .names import method_name
from .plots import RC, Drawing
from .tables import seeds_text

COLUMNS = 3  # panels side by side
MOST_NUMBERS = 12  # with more classes, numbers in cells are unreadable
MOST_NAMES = 40  # with more classes, class names are unreadable

# Labels, predictions and their probabilities, each (n,), of a method; its seeds are concatenated.
Arrays = dict[str, np.ndarray]


def figures(tests: list[Test], name: str) -> Drawing:
    """Draw a figure of each test, with a panel for each method.

    Args:
        tests: tests; those without predictions are skipped.
        name: a key of PICTURES.

    Returns:
        By file name, the figure and a sentence that describes it.
    """
    sentence, panel, size = PICTURES[name]
    found = {}
    for test in tests:
        arrays = {method: said for method in test.runs if (said := _arrays(test, method))}
        if arrays:
            figure = _draw(test, arrays, panel, size)
            found[f"{name}_{test.name}"] = figure, f"{sentence}: {test.where}"
    return found


def _arrays(test: Test, method: str) -> Arrays | None:
    """Return the predictions of all seeds, or None if there are none; report skipped runs."""
    left, problems = each_seed(test.runs[method], arrays_of)
    for why, seeds in problems.items():
        told = f"not in the plots: {method}, {test.where}: {why} [{seeds_text(seeds)}]"
        print(printable(told), file=sys.stderr)
    if not left:
        return None
    columns = {
        "label": [arrays["label"] for arrays in left.values()],
        "prediction": [arrays["prediction"] for arrays in left.values()],
        "confidence": [arrays["probability"][:, 0] for arrays in left.values()],
    }
    return {name: np.concatenate(column) for name, column in columns.items()}


def _draw(
    test: Test, arrays: dict[str, Arrays], panel: Callable, size: tuple[float, float]
) -> Figure:
    columns = min(COLUMNS, len(arrays))
    lines = math.ceil(len(arrays) / columns)
    with matplotlib.rc_context(RC):
        whole = (max(size[0] * columns, 4.0), size[1] * lines + 0.4)
        figure = Figure(figsize=whole, layout="constrained")
        figure.suptitle(test.where)
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis in axes[len(arrays) :]:
            axis.remove()
        used = axes[: len(arrays)]
        for number, (axis, (method, said)) in enumerate(zip(used, arrays.items(), strict=True)):
            drawn = panel(axis, test, method, said, number % columns == 0)
        if drawn is not None:
            figure.colorbar(drawn, ax=list(used), shrink=0.6).set_label("Share of the true class")
    return figure


def _reliability(axis: Axes, test: Test, method: str, said: Arrays, first: bool) -> None:
    confidence, hits = said["confidence"], said["prediction"] == said["label"]
    confidences, accuracies, counts = reliability(confidence, hits)
    some = counts > 0
    centres = (np.arange(BINS) + 0.5) / BINS
    axis.bar(centres[some], accuracies[some], 0.95 / BINS, color="#88CCEE")
    axis.plot(confidences[some], accuracies[some], "o", markersize=3, color="#332288")
    axis.plot([0, 1], [0, 1], "--", linewidth=0.8, color="#555555")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.tick_params(labelbottom=False)
    below = axis.inset_axes((0, -0.38, 1, 0.3), sharex=axis)
    below.bar(centres[some], counts[some], 0.95 / BINS, color="#BBBBBB")
    below.set_xlabel("Confidence")
    below.set_xticks([0, 0.5, 1])
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    if first:
        for part, name in ((axis, "Accuracy"), (below, "Images")):
            part.set_ylabel(name)
            part.yaxis.set_label_coords(-0.27, 0.5)  # aligned
    errors = test.values(method, "calibration_error")  # averaged over seeds, as in the table
    note = f": ECE {mean(errors):.1f}%" if errors else ""
    axis.set_title(method_name(method) + note, fontsize="medium")


def _confusion(axis: Axes, test: Test, method: str, said: Arrays, first: bool) -> AxesImage:
    named = test.values(method, PER_CLASS)
    names = list(named[0]) if named else []
    classes = max(len(names), 1 + int(max(said["label"].max(), said["prediction"].max())))
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (said["label"], said["prediction"]), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a row adds up to 1
    drawn = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axis.grid(False)
    axis.set_xlabel("Predicted class")
    axis.set_title(method_name(method), fontsize="medium")
    if classes <= MOST_NUMBERS:
        for (true, predicted), share in np.ndenumerate(matrix):
            if share:
                axis.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center",
                          fontsize=7, color="white" if share > 0.5 else "black")  # fmt: skip
    if len(names) == classes <= MOST_NAMES:
        size = 6 if classes > 12 else 8
        axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
        axis.set_yticks(range(classes) if first else [], names if first else [], fontsize=size)
    if first:
        axis.set_ylabel("True class")
    return drawn


# By kind: a description, the function that draws a panel, and its width and height in inches.
PICTURES: dict[str, tuple[str, Callable, tuple[float, float]]] = {
    "reliability": (
        "Accuracy against confidence, and the number of images below",
        _reliability,
        (2.4, 3.0),
    ),
    "confusion": (
        "Share of the predicted classes in each true class, from white (0) to dark blue (1), "
        "in percent where there are few classes",
        _confusion,
        (4.2, 4.32),
    ),
}
