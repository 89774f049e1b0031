"""Plots: accuracy against shots in the style of the CoOp paper, and H against beta."""

import io
import math
from collections import Counter, defaultdict
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..protocols.base import Plot, shots_text
from .methods import looks
from .rows import Average, Row, averages, methods

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
    for protocol in dict.fromkeys(row.protocol for row in listed):
        plot = protocol.plot
        if plot is None:
            continue
        rows = [row for row in listed if row.protocol is protocol]
        if plot.x != "shots":
            rows = [row for row in rows if row.tried == plot.x]
        panels = _panels(rows, plot)
        if panels:
            figure = _draw(rows, panels, plot.x_label, plot.y_label)
            found[plot.name] = figure, f"{plot.sentence}; {bars}"
    return found


def encoded(figure: Figure, form: str) -> bytes:
    """A figure as png or svg: the same bytes for the same numbers."""
    stream = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format=form, dpi=150, metadata=metadata)
    return stream.getvalue()


def _panels(listed: list[Row], plot: Plot) -> Panels:
    """A panel for each data set, and before these one for the averages that lack no data set."""
    panels = defaultdict(lambda: defaultdict(list))
    for average in averages(listed):
        if average.datasets == average.of:
            point = Point(_x(average, plot), average.means[plot.y], None, True)
            panels[_title(str(average).capitalize(), average)][average.method].append(point)
    for row in listed:
        if row.values[plot.y]:
            y, spread = row.mean(plot.y), row.spread(plot.y)
            point = Point(_x(row, plot), y, spread, row.complete(plot.y))
            panels[_title(row.dataset, row)][row.method].append(point)
    return panels


def _x(of: Row | Average, plot: Plot) -> float:
    return of.shots if plot.x == "shots" else of.settings[plot.x]


def _title(what: str, of: Row | Average) -> str:
    return f"{what}, {shots_text(of.shots)}" if of.variant else what


def _draw(listed: list[Row], panels: Panels, x_label: str, y_label: str) -> Figure:
    """All panels, with one legend."""
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
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
    look = looks(trainers.values())
    seen, styles = Counter(), {}
    for method in methods(listed):
        trainer = trainers[method]
        line = LINES[seen[trainer] % len(LINES)]
        styles[method] = look[trainer]._asdict() | {"linestyle": line}
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
