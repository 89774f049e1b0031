"""Reliability diagrams, confusion matrices and sheets of wrong images, drawn from predictions."""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from PIL import Image

from trainers.prompting.errors import printable
from trainers.prompting.record.metrics import BINS, reliability

from ..records import PER_CLASS, Outcome
from .answers import arrays_of, each_seed
from .measured import Measured
from .names import ARTISTS, method_name
from .plots import RC, Drawing

COLUMNS = 3  # panels side by side
MOST_NUMBERS = 12  # with more classes, numbers in cells are unreadable
MOST_NAMES = 40  # with more classes, class names are unreadable
SHEET = (4, 5)  # lines and columns of the sheet of wrong images
BARS = "Bars: accuracy in each bin of confidence; dots: the same at its mean confidence; below: {}"


class Said(NamedTuple):
    """Labels, predictions and their probabilities, each (n,), of all seeds of a method."""

    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    seeds: int
    names: list[str]  # of the classes, or none
    errors: list[float]  # expected calibration errors (%), as in the table


def figures(tests: list[Measured], name: str) -> Drawing:
    """Draw a figure of each test, with a panel for each method.

    Args:
        tests: tests; those without predictions are skipped.
        name: a key of PICTURES.

    Returns:
        By file name, the figure and a sentence that describes it.
    """
    found = {}
    for test in tests:
        said = {
            method: one
            for method in test.lines["name"]
            if (one := _said(test.runs(method), f"{method}, {test.where}"))
        }
        if said:
            found[f"{name}_{test.name}"] = draw(said, name, test.where)
    return found


def figures_of_run(outcome: Outcome, where: str) -> Drawing:
    """Draw the confusion matrix and reliability diagram of a run, and its wrong images.

    Args:
        outcome: a finished run.
        where: describes it.
    """
    method = str((outcome.result or {}).get("trainer"))
    said = _said({outcome.run.seed: outcome}, method)
    if said is None:
        return {}
    found = {name: draw({method: said}, name, where) for name in PICTURES}
    if sheet := _sheet(outcome, said, where):
        found["mistakes"] = sheet
    return found


def _said(of: Mapping[int, Outcome], where: str) -> Said | None:
    """Return what all seeds of a method say, or None if they saved nothing; name those skipped."""
    left, problems = each_seed(of, arrays_of)
    for why in problems:
        print(printable(f"not in the plots: {where}: {why}"), file=sys.stderr)
    if not left:
        return None
    results = [outcome.result or {} for outcome in of.values()]
    # runs may keep different numbers of the likeliest classes
    said = [(of["label"], of["prediction"], of["probability"][:, 0]) for of in left.values()]
    label, prediction, confidence = map(np.concatenate, zip(*said, strict=True))
    names = next(filter(None, (list(one.get(PER_CLASS) or ()) for one in results)), [])
    errors = [e for one in results if (e := one.get("calibration_error")) is not None]
    return Said(label, prediction, confidence, len(left), names, errors)


def draw(said: Mapping[str, Said], name: str, where: str) -> tuple[Figure, str]:
    """Return a figure with a panel for each method, and a sentence that describes it.

    Args:
        said: by method.
        name: a key of PICTURES.
        where: the test in words, for the title.
    """
    sentence, panel, (width, height), alone = PICTURES[name]
    columns = min(COLUMNS, len(said))
    lines = math.ceil(len(said) / columns)
    seeds = max(of.seeds for of in said.values())
    with matplotlib.rc_context(RC):
        size = (width * columns, height * lines + 0.6) if len(said) > 1 else alone
        figure = Figure(figsize=size, layout="compressed")  # around panels of fixed shape
        figure.suptitle(where, fontsize="medium", wrap=True)
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis in axes[len(said) :]:
            axis.remove()
        used = axes[: len(said)]
        for number, (axis, (method, of)) in enumerate(zip(used, said.items(), strict=True)):
            drawn = panel(axis, method_name(method), of, number % columns == 0)
        if drawn is not None:
            figure.colorbar(drawn, ax=list(used), shrink=0.6).set_label("Share of the true class")
    images = "images" if seeds == 1 else f"images, mean of {seeds} seeds"
    what = sentence.format(images)
    if name == "reliability":
        figure.supxlabel(what.replace("; ", "\n"), fontsize="x-small")
    return figure, f"{what}; {where}."


def _reliability(axis: Axes, name: str, said: Said, first: bool) -> None:
    hits = said.prediction == said.label
    confidences, accuracies, counts = reliability(said.confidence, hits)
    some = counts > 0
    centres = (np.arange(BINS) + 0.5) / BINS
    axis.bar(centres[some], accuracies[some], 0.95 / BINS, color="#88CCEE")
    axis.plot(confidences[some], accuracies[some], "o", markersize=3, color="#332288")
    axis.plot([0, 1], [0, 1], "--", linewidth=0.8, color="#555555")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.tick_params(labelbottom=False)
    below = axis.inset_axes((0, -0.38, 1, 0.3), sharex=axis)
    # an image counts once, not once a seed
    below.bar(centres[some], counts[some] / said.seeds, 0.95 / BINS, color="#BBBBBB")
    axis.set_xlabel("Confidence")  # of both, as the layout knows the labels of the upper only
    axis.xaxis.set_label_coords(0.5, -0.5)
    below.set_xticks([0, 0.5, 1])
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    if first:
        for part, text in ((axis, "Accuracy"), (below, "Images")):
            part.set_ylabel(text)
            part.yaxis.set_label_coords(-0.27, 0.5)  # aligned
    # averaged over seeds, as in the table
    note = f": ECE {mean(said.errors):.1f}%" if said.errors else ""
    axis.set_title(name + note, fontsize="medium")


def _confusion(axis: Axes, name: str, said: Said, first: bool) -> AxesImage:
    classes = max(len(said.names), 1 + int(max(said.label.max(), said.prediction.max())))
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (said.label, said.prediction), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a row adds up to 1
    drawn = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axis.grid(False)
    axis.set_xlabel("Predicted class")
    axis.set_title(name, fontsize="medium")
    if classes <= MOST_NUMBERS:
        for (true, predicted), share in np.ndenumerate(matrix):
            if share:
                axis.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center",
                          fontsize=7, color="white" if share > 0.5 else "black")  # fmt: skip
    if len(said.names) == classes <= MOST_NAMES:
        size, ticks = 6 if classes > 12 else 8, range(classes)
        axis.set_xticks(ticks, said.names, rotation=90, fontsize=size)
        axis.set_yticks(ticks if first else [], said.names if first else [], fontsize=size)
    if first:
        axis.set_ylabel("True class")
    return drawn


def _sheet(outcome: Outcome, said: Said, where: str) -> tuple[Figure, str] | None:
    """Return a sheet of the wrong images with the most confident predictions, and a sentence.

    None, and a line on stderr, if nothing is wrong or the images are not where the run read them.
    """
    wrong = np.flatnonzero(said.label != said.prediction)
    wrong = wrong[np.argsort(-said.confidence[wrong].astype(float), kind="stable")]
    images = arrays_of(outcome)["image"]
    data = ((outcome.result or {}).get("config") or {}).get("DATASET") or {}
    root = Path(data.get("ROOT") or "data")
    base = _folder_of(root, [str(image) for image in images], outcome.run.dataset)
    if base is None or not len(wrong):
        why = "no image is wrong" if base else f"'{root}' does not have the test images"
        print(f"no sheet of wrong images: {why}", file=sys.stderr)
        return None
    lines, columns = SHEET
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(1.5 * columns, 1.85 * lines + 0.5), layout="constrained")
        figure.suptitle(f"{where}\nwrong, the most confident first", fontsize="medium", wrap=True)
        for number, axis in enumerate(figure.subplots(lines, columns).flatten()):
            axis.axis("off")
            if number >= len(wrong) or not (file := base / images[wrong[number]]).is_file():
                continue
            one = wrong[number]
            axis.imshow(_thumbnail(file))
            said_, true = _class(said, said.prediction[one]), _class(said, said.label[one])
            text = f"{said_} {100 * said.confidence[one]:.0f}%\nis {true}"
            axis.set_title(text, fontsize=6.5)
    return figure, f"The most confident wrong predictions, with the true classes; {where}."


def _class(said: Said, number: int) -> str:
    return printable(said.names[number])[:24] if number < len(said.names) else f"class {number}"


def _thumbnail(file: Path) -> Image.Image:
    with Image.open(file) as image:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
    paper.thumbnail((160, 160))
    return paper.convert("RGB")


def _folder_of(root: Path, images: list[str], dataset: str) -> Path | None:
    """Return the folder below the root that has all test images; None if there is not just one.

    Several artists drew the motifs of an embedded data set, in folders of their names.
    """
    first = images[0]
    found = [
        base
        for file in (sorted(root.rglob(Path(first).name)) if root.is_dir() else ())
        if file.as_posix().endswith(f"/{first}")
        if all(((base := Path(str(file)[: -len(first)])) / image).is_file() for image in images)
    ]
    for artist, drawn in ARTISTS.items():
        if len(found) > 1 and dataset.lower() in drawn:
            found = [base for base in found if base.name == artist.lower().replace(" ", "_")]
    return found[0] if len(found) == 1 else None


# By kind: a description, the function that draws a panel, its width and height in inches, and those
# of a figure of one panel.
PICTURES: dict[str, tuple[str, Callable, tuple[float, float], tuple[float, float]]] = {
    "reliability": (BARS, _reliability, (2.4, 3.5), (3.8, 5.6)),
    "confusion": (
        "Share of the predicted classes in each true class, from white (0) to dark blue (1), "
        "in percent where there are few classes",
        _confusion,
        (4.2, 4.32),
        (5.2, 4.92),
    ),
}
