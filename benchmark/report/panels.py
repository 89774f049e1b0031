"""Choose what plots show: the points of each curve, in the panels of each plot."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from ..protocols.base import Plot, shots_text
from .frame import each_row, setting_texts
from .notes import data_name
from .published import KNOWN
from .summary import protocol_of
from .training import Settings


class Panel(NamedTuple):
    """A panel of a plot.

    Points are rows of tables, with `curve`, `x`, `y`, and `x_spread` and `y_spread`, half-lengths
    of bars (NaN for none).
    """

    points: pd.DataFrame
    ticks: dict[float, str]  # labels of positions on an axis, if any


def plots(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Plot]]:
    """Yield each plot with its rows; their `curve` is the name of the curve that they belong to."""
    for _, members in rows.groupby("protocol", sort=False):
        protocol = protocol_of(members)
        y, label = [*protocol.columns.items()][-1]  # of base-to-new H
        members = _with_all_known(members)
        varied = _varied_settings(members)
        if protocol.plot and (KNOWN not in varied or members["shots"].nunique() > 1):
            yield members.assign(curve=members["name"]), protocol.plot
        for key in varied:
            yield members.assign(curve=[_without(key, row) for row in each_row(members)]), Plot(
                name=f"{protocol.name}_{key.lower()}", x=key, y=y, x_label=key,
                y_label=f"{label} (%)", sentence=f"{protocol.title}: {label} against {key}",
            )  # fmt: skip


def _with_all_known(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows; where trainings know a share of the labels, that of the others is 1."""
    if not any(KNOWN in dict(settings) for settings in rows["settings"]):
        return rows
    settings = [
        row.settings
        if row.untrained or KNOWN in dict(row.settings)
        else (*row.settings, (KNOWN, 1.0))
        for row in each_row(rows)
    ]
    return rows.assign(settings=pd.Series(settings, rows.index, dtype=object))


def _varied_settings(rows: pd.DataFrame) -> list[str]:
    """Return the settings for which rows of one method have several numbers."""
    values: dict[tuple, set] = defaultdict(set)
    for trainer, settings in zip(rows["trainer"], rows["settings"], strict=True):
        for key, value in _numbers(settings).items():
            values[trainer, key].add(value)
    return list(dict.fromkeys(key for (_, key), numbers in values.items() if len(numbers) > 1))


def _numbers(settings: Settings) -> dict[str, float]:
    """Return the settings whose values are numbers."""
    return {k: v for k, v in settings if isinstance(v, int | float) and not isinstance(v, bool)}


def _without(key: str, row: Any) -> str:
    """Return the name of a row without a setting."""
    others = tuple(pair for pair in row.settings if pair[0] != key)
    return ", ".join([row.method, *setting_texts(others)])


def panels(rows: pd.DataFrame, plot: Plot) -> dict[str, Panel]:
    """Return the panels of a plot by title; averages are shown if complete, before data sets.

    Where a setting does not concern a method, its curve is a level line.
    """
    ticks: dict[float, str] = {}
    cells = rows[rows["column"] == plot.y].sort_values("average", ascending=False, kind="stable")
    cells = cells.assign(y=cells["mean"], y_spread=cells["spread"], x_spread=None)
    if plot.kind == "plane":
        base = rows[rows["column"] == plot.x].set_index("line")
        cells["x"], cells["x_spread"] = (
            cells["line"].map(base[column]) for column in ("mean", "spread")
        )
    elif plot.x == "shots":  # at equal distances: 1 and 2 shots are as far apart as 8 and 16
        places = sorted(rows["shots"].unique(), key=lambda shots: (shots < 0, shots))
        ticks = {i: "all" if shots < 0 else str(shots) for i, shots in enumerate(places)}
        cells["x"] = cells["shots"].map(places.index)
    else:
        x = cells["settings"].map(lambda settings: _numbers(settings).get(plot.x, math.nan))
        concerns = cells["curve"].isin(cells["curve"][x.notna()])
        values = sorted(x.dropna().unique())
        cells["x"] = [own if has else values for own, has in zip(x, concerns, strict=True)]
        cells = cells.explode("x")
    shots = sorted(set(rows["shots"]) - {0}) if not ticks else []
    cells["title"] = [_titles(row, shots) for row in each_row(cells)]
    return {
        str(title): Panel(points, ticks)
        for title, points in _complete_points(cells.explode("title")).groupby("title", sort=False)
    }


def _titles(row: Any, shots: list[int]) -> list[str]:
    """Return the titles of the panels that show a row, one for each of several numbers of shots."""
    title = data_name(row)
    title = title.capitalize() if row.average else title
    if len(shots) < 2:
        return [title]
    return [f"{title}, {shots_text(number)}" for number in ([row.shots] if row.shots else shots)]


def _complete_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that have numbers, without averages that lack data sets."""
    numbers = ["x", "y", "x_spread", "y_spread"]
    points = points.astype(dict.fromkeys(numbers, float) | {"complete": bool})
    return points[points["complete"] | ~points["average"].astype(bool)].dropna(subset=["x", "y"])
