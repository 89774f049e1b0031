"""Pictures of predictions: reliability diagrams and confusion matrices."""

import math
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.metrics import BINS, calibration_error, reliability
from recipe.predictions import read_predictions

from .metrics import PER_CLASS, Test
from .plots import RC

COLUMNS = 4  # panels side by side
MOST_NAMES = 40  # with more classes their names cannot be read

# The predictions of a method, of all its seeds one after the other.
Arrays = dict[str, np.ndarray]


def reliability_diagrams(tests: list[Test]) -> dict[str, tuple[Figure, str]]:
    """By the names of files, a figure of each test, a panel for each method, and what is seen."""
    return _figures(tests, "reliability", _reliability, "Accuracy against confidence", 2.4)


def confusion_matrices(tests: list[Test]) -> dict[str, tuple[Figure, str]]:
    """By the names of files, a figure of each test, a panel for each method, and what is seen."""
    return _figures(
        tests,
        "confusion",
        _confusion,
        "Share of the predicted classes in each true class, from white (0) to dark blue (1)",
        4.2,
    )


def _figures(tests: list[Test], name: str, panel: Callable, sentence: str, side: float) -> dict:
    found = {}
    for test in tests:
        arrays = {method: said for method in test.runs if (said := _arrays(test, method))}
        if arrays:
            figure = _draw(test, arrays, panel, side)
            found[f"{name}_{test.name}"] = figure, f"{sentence}: {test.where}"
    return found


def _arrays(test: Test, method: str) -> Arrays | None:
    """The predictions of all seeds; None when no run left any."""
    read = [read_predictions(outcome.run.folder) for outcome in test.runs[method].values()]
    left = [arrays for arrays in read if arrays]
    if not left:
        return None
    return {name: np.concatenate([arrays[name] for arrays in left]) for name in left[0]}


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
        for axis, (method, said) in zip(axes, arrays.items(), strict=False):
            names = [list(accuracies) for accuracies in test.values(method, PER_CLASS)]
            panel(axis, method, said, names[0] if names else [])
    return figure


def _reliability(axis: Axes, method: str, said: Arrays, names: list[str]) -> None:
    confidence, hits = said["probability"][:, 0], said["prediction"] == said["label"]
    mean, accuracy, counts = reliability(confidence, hits)
    some = counts > 0
    centres = (np.arange(BINS) + 0.5) / BINS
    axis.bar(centres[some], accuracy[some], 0.95 / BINS, color="#88CCEE", label="accuracy")
    axis.plot(mean[some], accuracy[some], "o", markersize=3, color="#332288")
    axis.plot([0, 1], [0, 1], "--", linewidth=0.8, color="#555555")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence", ylabel="Accuracy", aspect="equal")
    axis.set_title(f"{method}: ECE {calibration_error(confidence, hits):.1f}%")


def _confusion(axis: Axes, method: str, said: Arrays, names: list[str]) -> None:
    classes = max(len(names), 1 + int(max(said["label"].max(), said["prediction"].max())))
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (said["label"], said["prediction"]), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a row adds up to 1
    axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axis.grid(False)
    axis.set(xlabel="Predicted class", ylabel="True class", title=method)
    if len(names) == classes <= MOST_NAMES:
        size = 6 if classes > 12 else 8
        axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
        axis.set_yticks(range(classes), names, fontsize=size)
