"""Pictures of predictions: reliability diagrams and confusion matrices."""

import math
import sys
from collections.abc import Callable
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from recipe.metrics import BINS, reliability
from trainers.prompting.errors import printable

from .answers import arrays_of, each_seed
from .metrics import PER_CLASS, Test
from .names import method_name
from .plots import RC, Drawing
from .tables import seeds_text

COLUMNS = 3  # panels side by side
MOST_NAMES = 40  # with more classes their names cannot be read

# Labels, predictions and their probabilities (n,) of a method, of all its seeds in turn.
Arrays = dict[str, np.ndarray]


def figures(tests: list[Test], name: str) -> Drawing:
    """By the names of files, a figure of each test, a panel for each method, and what is seen.

    Args:
        tests: those with predictions are drawn.
        name: a key of PICTURES.
    """
    sentence, panel, side = PICTURES[name]
    found = {}
    for test in tests:
        arrays = {method: said for method in test.runs if (said := _arrays(test, method))}
        if arrays:
            figure = _draw(test, arrays, panel, side)
            found[f"{name}_{test.name}"] = figure, f"{sentence}: {test.where}"
    return found


def _arrays(test: Test, method: str) -> Arrays | None:
    """The predictions of all seeds; None when no run left any. Those left out are reported."""
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


def _draw(test: Test, arrays: dict[str, Arrays], panel: Callable, side: float) -> Figure:
    columns = min(COLUMNS, len(arrays))
    lines = math.ceil(len(arrays) / columns)
    with matplotlib.rc_context(RC):
        size = (max(side * columns, 4.0), (side + 0.12) * lines + 0.4)
        figure = Figure(figsize=size, layout="constrained")
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
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence", aspect="equal")
    if first:
        axis.set_ylabel("Accuracy")
    errors = test.values(method, "calibration_error")  # of each seed, as in the table
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
    if len(names) == classes <= MOST_NAMES:
        size = 6 if classes > 12 else 8
        axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
        axis.set_yticks(range(classes) if first else [], names if first else [], fontsize=size)
    if first:
        axis.set_ylabel("True class")
    return drawn


# What is seen, what draws a panel, and how wide that is, in inches.
PICTURES: dict[str, tuple[str, Callable, float]] = {
    "reliability": ("Accuracy against confidence", _reliability, 2.4),
    "confusion": (
        "Share of the predicted classes in each true class, from white (0) to dark blue (1)",
        _confusion,
        4.2,
    ),
}
