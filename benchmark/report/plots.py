"""Plot accuracy against shots or a setting, and new against base classes."""

import io
import math
import sys
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..cli import write_output
from ..protocols.base import Plot
from .names import METHODS
from .panels import Panel, panels, plots
from .published import with_marks

# Line and filled part of the marker, for a method's first, second, ... variant; then again with
# these markers in place of its own.
VARIANTS = [("-", "full"), ("--", "left"), (":", "bottom"), ("-.", "right")]
MARKERS = "^sDPv<>pdHhX8"

# Colours and markers of METHODS; no two curves differ by colour only. The first ten colours are
# Paul Tol's palette "muted", safe for the colour-blind, with black for zero-shot CLIP; the others
# are his "vibrant".
COLOURS = [
    "#000000", "#332288", "#DDCC77", "#999933", "#88CCEE", "#117733", "#CC6677", "#44AA99",
    "#0077BB", "#EE7733", "#CC3311", "#EE3377", "#009988", "#AA4499", "#882255",
]  # fmt: skip
LOOKS = dict(zip(METHODS, zip(COLOURS, "*XvD<sP^>pd8Hho", strict=True), strict=True))

# For other methods, in turn. 11 colours and 13 markers are coprime, so that 143 looks differ.
OTHER_COLOURS = [
    "#555555", "#E69F00", "#56B4E9", "#7F3C8D", "#80BA5A", "#A5761D", "#3969AC", "#F2B701",
    "#8C564B", "#B2B2B2", "#666699",
]  # fmt: skip
OTHER_MARKERS = "p>d8HXvD<sP^h"

RC: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "text.parse_math": False,  # $ in the name of a class or file is no formula
    "svg.hashsalt": "benchmark",  # fixed names of elements: the same bytes each time
}
# Metadata left out, as it would make two files of the same numbers differ.
FORMATS: dict[str, dict] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}
WIDTH = 5.2  # inches; at 500 pixels, letters have the size of body text
COLUMNS = 2  # panels side by side


Drawing = dict[str, tuple[Figure, str]]  # by name, a figure and a sentence that describes it
Curves = dict[str, pd.DataFrame]  # the points of each method in a panel


def figures(rows: pd.DataFrame) -> Drawing:
    """Draw all plots for which these rows have data."""
    bars = "95% intervals" if rows["interval"].any() else "standard deviations"
    over = (
        "images and seeds" if rows["interval"].any() and "map" in {*rows["main"]} else "the seeds"
    )
    drawings = {}
    for members, plot in plots(rows):
        if by_title := panels(members, plot):
            drawings[plot.name] = _draw(members, by_title, plot, f"{bars} over {over}")
    return drawings


def encode_figure(figure: Figure, form: str) -> bytes:
    """Return a figure in one of FORMATS; the same numbers give the same bytes."""
    stream = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format=form, dpi=150, metadata=FORMATS[form])
    return stream.getvalue()


def write_figures(drawn: Drawing, folder: Path) -> None:
    """Write figures into a folder in all of FORMATS, and print their paths; raises OSError."""
    for name, (figure, _) in drawn.items():
        for form in FORMATS:
            path = folder / f"{name}.{form}"
            write_output(path, encode_figure(figure, form))
            print(path, file=sys.stderr)
            figure.set_layout_engine("none")  # that of the first file serves all


def _draw(
    rows: pd.DataFrame, panels: dict[str, Panel], plot: Plot, bars: str
) -> tuple[Figure, str]:
    """Draw all panels, with a note below and a legend if there are several methods."""
    points = pd.concat(panel.points for panel in panels.values())
    styles = {name: style for name, style in _styles(rows).items() if name in set(points["curve"])}
    beyond = dict(zip(points["curve"], points["beyond"], strict=True))
    names = [with_marks(name, beyond[name]) for name in styles]
    columns = min(COLUMNS, len(panels))
    bands = math.ceil(len(panels) / columns)
    fit = int(100 * WIDTH) // (50 + 7 * max(map(len, names)))  # names in a line
    fit = max(1, min(4, fit, len(names)))
    height = 3.2 if columns == 1 else 2.6 if bands == 1 else 2.3
    sentence, note = plot.sentence, ""
    if (points[["x_spread", "y_spread"]] > 0).any(axis=None):
        sentence, note = f"{sentence}; bars are {bars}", f"\nBars: {bars}"
    if not points["complete"].all():
        sentence += "; a hollow marker lacks seeds"
    with matplotlib.rc_context(RC):
        size = (WIDTH, height * bands + 0.2 * math.ceil(len(styles) / fit) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(bands, columns, squeeze=False).flatten()
        for axis in axes[len(panels) :]:
            axis.remove()
        handles: dict = {}
        for axis, (title, panel) in zip(axes, panels.items(), strict=False):
            text = f"{names[0]}: {title}" if len(names) == 1 else title
            axis.set_title(text, fontsize="medium")
            curves = panel.points.groupby("curve")
            in_panel = {name: curves.get_group(name) for name in styles if name in curves.groups}
            draw = _plane if plot.kind == "plane" else _curves
            handles |= draw(axis, in_panel, panel.ticks, styles)
        figure.supxlabel(plot.x_label + note, fontsize="medium")
        figure.supylabel(plot.y_label, fontsize="medium")
        if len(names) > 1:
            _legend(figure, [handles[name] for name in styles], names, fit)
    return figure, f"{sentence}."


def _legend(figure: Figure, handles: list, names: Sequence[str], columns: int) -> None:
    """Add a legend above the panels, ordered by row (Matplotlib fills columns)."""
    order = [i for column in range(columns) for i in range(column, len(names), columns)]
    figure.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="outside upper center",
        frameon=False, ncols=columns,
    )  # fmt: skip


def _curves(axis: Axes, curves: Curves, ticks: dict, styles: dict[str, dict]) -> dict:
    """Draw the points of each method, joined by lines."""
    places = sorted(ticks) or sorted(set().union(*(points["x"] for points in curves.values())))
    axis.set_xticks(places, [ticks.get(x, f"{x:g}") for x in places])
    at_zero = [name for name, points in curves.items() if ticks.get(points["x"].iloc[0]) == "0"]
    handles = {}
    for name in sorted(curves, key=lambda name: name not in at_zero):
        handles[name] = _mark(axis, curves[name].sort_values(["x", "y"]), styles[name])
        if name in at_zero:  # zero-shot: also a horizontal reference line
            level, color = curves[name]["y"].iloc[0], styles[name]["color"]
            axis.axhline(level, color=color, linewidth=0.8, linestyle=":")
    return handles


def _plane(axis: Axes, curves: Curves, ticks: dict, styles: dict[str, dict]) -> dict:
    """Draw new against base classes, over lines of equal H."""
    handles = {
        name: _mark(axis, points, styles[name] | {"linestyle": "none"})
        for name, points in curves.items()
    }
    axis.margins(0.15)
    limits = axis.get_xlim(), axis.get_ylim()
    base, new = (np.linspace(max(low, 0), high, 200) for low, high in limits)
    h = 2 * np.outer(new, base) / np.maximum(np.add.outer(new, base), 1e-9)
    levels = MaxNLocator(5).tick_values(h.min(), h.max())
    levels = levels[(levels > h.min()) & (levels < min(h.max(), 100))]
    lines = axis.contour(base, new, h, levels, colors="#999999", linewidths=0.6, zorder=0.5)
    axis.clabel(lines, fmt="H %g", fontsize=7, colors="#666666", zorder=0.6)
    axis.grid(False)
    return handles


def looks(trainers: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return a distinct colour and marker for each of these methods."""
    trainers = set(trainers)
    others = zip(cycle(OTHER_COLOURS), cycle(OTHER_MARKERS), strict=False)
    of_others = dict(zip(sorted(trainers - LOOKS.keys()), others, strict=False))
    return {name: look for name, look in LOOKS.items() if name in trainers} | of_others


def _styles(rows: pd.DataFrame) -> dict[str, dict]:
    """Return the style of each method's curve, in the order of the methods."""
    first = rows.sort_values("rank", kind="stable").drop_duplicates("curve")
    look, number = looks(first["trainer"]), first.groupby("trainer").cumcount()
    styles = {}
    for curve, trainer, i in zip(first["curve"], first["trainer"], number, strict=True):
        turn, variant = divmod(i, len(VARIANTS))
        line, fill = VARIANTS[variant]
        colour, marker = look[trainer]
        markers = marker + MARKERS.replace(marker, "")
        styles[curve] = {
            "color": colour, "marker": markers[turn % len(markers)],
            "linestyle": line, "fillstyle": fill, "markerfacecoloralt": "white",
        }  # fmt: skip
    return styles


def _mark(axis: Axes, points: pd.DataFrame, style: dict):
    """Draw points with their error bars; markers are hollow where seeds are missing."""
    style = style | {"markersize": 8 if style["marker"] == "*" else 4.5}
    for way in ("x", "y"):
        barred = points[points[f"{way}_spread"] > 0]
        bars: dict[str, Any] = {f"{way}err": barred[f"{way}_spread"]}
        axis.errorbar(
            barred["x"], barred["y"], **bars,
            color=style["color"], fmt="none", elinewidth=0.8, capsize=1.5,
        )  # fmt: skip
    (line,) = axis.plot(points["x"], points["y"], **style, linewidth=1.2)
    hollow, white = points[~points["complete"]], {"linestyle": "none", "markerfacecolor": "white"}
    axis.plot(hollow["x"], hollow["y"], **style | white)
    return line
