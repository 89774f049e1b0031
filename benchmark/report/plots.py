"""Plots: accuracy against shots in the style of the CoOp paper, and H against beta."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..protocols.runs import METHODS
from .rows import Average, Row, averages, kind, methods, settings, shots_text

# A colour and a marker for each of METHODS, so that colour is never the only difference: Paul
# Tol's palette "muted", safe for the colour-blind, with black for what learns nothing.
COLOURS = [
    "#000000", "#332288", "#DDCC77", "#999933", "#88CCEE", "#117733", "#CC6677", "#44AA99",
    "#AA4499", "#882255",
]  # fmt: skip
MARKERS = ["*", "X", "v", "D", "<", "s", "P", "^", "h", "o"]
OTHERS = list(zip(["#555555", "#0072B2", "#E69F00"], ["p", ">", "d"], strict=True))
LINES = ["-", "--", ":", "-."]  # of one method's first, second, ... curve: its configs, its logs

RC = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "benchmark",  # the same names of parts, and so the same bytes, each time
}
FORMATS = ("png", "svg")
COLUMNS = 4  # panels side by side


class Point(NamedTuple):
    """A point of a curve; `whole` when no seed is missing."""

    x: float
    y: float
    spread: float | None
    whole: bool


# The curves of a panel, by the method; the panels by their title.
Panels = dict[str, dict[str, list[Point]]]


def figures(listed: list[Row]) -> dict[str, tuple[Figure, str]]:
    """What can be drawn of these rows: by its name, a figure and a sentence that describes it."""
    bars = "95% intervals" if any(row.interval for row in listed) else "standard deviations"
    bars = f"bars are {bars} over the seeds, and a hollow marker lacks seeds."
    found = {}
    kept = [row for row in listed if row.protocol == "few_shot"]
    if panels := _panels(kept, "accuracy", lambda row: row.shots):
        sentence = (
            "Accuracy against the number of labelled images per class; the star is zero-shot CLIP, "
            f"{bars}"
        )
        figure = _draw(kept, panels, "Labelled images per class", "Accuracy (%)")
        found["few_shot"] = figure, sentence
    kept = [row for row in listed if row.protocol == "ablation" and kind(row.variant) == "beta"]
    if panels := _panels(kept, "h", lambda row: settings(row.variant)[0][1]):
        figure = _draw(kept, panels, "beta", "H")
        found["ablation_beta"] = figure, f"H against beta, the weight of the token level; {bars}"
    return found


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a whole or not at all, in the format that the file's name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(encoded(figure, path.suffix[1:]))
    part.replace(path)


def encoded(figure: Figure, form: str) -> bytes:
    """A figure as png or svg: the same bytes for the same numbers."""
    stream = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format=form, dpi=150, metadata=metadata)
    return stream.getvalue()


def _panels(listed: list[Row], column: str, x_of: Callable[[Row | Average], float]) -> Panels:
    """A panel for each data set, and before these one for the averages that lack no data set."""
    panels = defaultdict(lambda: defaultdict(list))
    for average in averages(listed):
        if average.datasets == average.of:
            point = Point(x_of(average), average.means[column], None, True)
            panels[_title(str(average).capitalize(), average)][average.method].append(point)
    for row in listed:
        if row.values[column]:
            point = Point(x_of(row), row.mean(column), row.spread(column), row.complete(column))
            panels[_title(row.dataset, row)][row.method].append(point)
    return panels


def _title(what: str, of: Row | Average) -> str:
    return f"{what}, {shots_text(of.shots)}" if of.variant else what


def _draw(listed: list[Row], panels: Panels, x_label: str, y_label: str) -> Figure:
    """All panels, with one legend."""
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    alone = len(panels) == 1
    styles = _styles(listed)
    with matplotlib.rc_context(RC):
        size = (6.2, 3.6) if alone else (2.9 * columns, 2.4 * lines + 0.8)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis in axes[len(panels) :]:
            axis.remove()
        handles = {}
        for axis, (title, curves) in zip(axes, panels.items(), strict=False):
            axis.set_title(title)
            axis.set_xticks(sorted({point.x for points in curves.values() for point in points}))
            for method in sorted(curves, key=list(styles).index):
                handles[method] = _curve(axis, curves[method], styles[method])
        figure.supxlabel(x_label, fontsize="medium")
        figure.supylabel(y_label, fontsize="medium")
        names = [method for method in styles if method in handles]
        place = "right upper" if alone else "upper center"
        figure.legend(
            [handles[method] for method in names], names, loc=f"outside {place}", frameon=False,
            ncols=1 if alone else 2 * columns,
        )  # fmt: skip
    return figure


def _styles(listed: list[Row]) -> dict[str, dict]:
    """How the curve of each method looks, in the order of the methods."""
    trainers = {row.method: row.trainer for row in listed}
    others = sorted(set(trainers.values()) - set(METHODS))
    looks = dict(zip(METHODS, zip(COLOURS, MARKERS, strict=True), strict=True))
    looks |= {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    seen, styles = Counter(), {}
    for method in methods(listed):
        trainer = trainers[method]
        colour, marker = looks[trainer]
        line = LINES[seen[trainer] % len(LINES)]
        styles[method] = {"color": colour, "marker": marker, "linestyle": line}
        seen[trainer] += 1
    return styles


def _curve(axis: Axes, points: list[Point], style: dict):
    """Draw a curve with its error bars; markers are hollow where seeds are missing."""
    points = sorted(points)
    style = style | {"markersize": 10 if style["marker"] == "*" else 6}
    bars = [point for point in points if point.spread]
    axis.errorbar(
        [point.x for point in bars], [point.y for point in bars],
        [point.spread for point in bars], color=style["color"], fmt="none", elinewidth=0.8,
        capsize=2,
    )  # fmt: skip
    x, y = [point.x for point in points], [point.y for point in points]
    (line,) = axis.plot(x, y, **style, linewidth=1.4)
    if x == [0]:  # zero-shot: a level to compare with
        axis.axhline(*y, color=style["color"], linewidth=0.8, linestyle=":")
    hollow = [point for point in points if not point.whole]
    axis.plot(
        [point.x for point in hollow], [point.y for point in hollow],
        **style | {"linestyle": "none", "markerfacecolor": "white"},
    )  # fmt: skip
    return line
