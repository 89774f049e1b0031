"""Choose what plots show: the points of each curve, in the panels of each plot."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from ..protocols.base import Plot, shots_text
from .frame import Settings, each_row, setting_texts
from .names import dataset_title
from .rows import lines
from .tables import average_name, known, protocol_of


class Point(NamedTuple):
    """A point of a curve, with half-lengths of its error bars; `whole` if no seed is missing."""

    x: float
    y: float
    x_spread: float | None = None
    y_spread: float | None = None
    whole: bool = True


class Panel(NamedTuple):
    """The points of each method in one panel of a plot."""

    curves: dict[str, list[Point]]
    ticks: dict[float, str]  # labels of positions on an axis, if any


def plots(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Plot]]:
    """Yield each plot with its rows; their `curve` is the name of the curve that they belong to."""
    # of an ablation, a plot for each group of settings that was varied
    for _, members in rows.groupby(["protocol", "tried"], sort=False):
        protocol = protocol_of(members)
        plot = protocol.plot
        if plot is None:
            continue
        tried = members["tried"].iloc[0] if protocol.by_variant else ""
        if tried and tried != plot.x:
            words = tried.replace(" and ", ", ")
            stem = f"ablation_{words.replace(', ', '_').lower()}"
            plot = plot._replace(name=stem, x="", x_label=words, sentence=f"H against {words}")
        yield members.assign(curve=members["method" if tried else "name"]), plot
        if protocol.by_variant:
            continue
        y, label = [*protocol.columns.items()][-1]  # of base-to-new H
        for key in _varied(members):
            yield members.assign(curve=[_without(key, row) for row in each_row(members)]), Plot(
                name=f"{protocol.name}_{key.lower()}", x=key, y=y, x_label=key,
                y_label=f"{label} (%)", sentence=f"{protocol.title}: {label} against {key}",
            )  # fmt: skip


def _varied(rows: pd.DataFrame) -> list[str]:
    """Return the settings for which rows of one method have several numbers."""
    values: dict[tuple, set] = defaultdict(set)
    for row in each_row(rows):
        for key, _ in row.settings:
            values[row.trainer, key] |= {_number(row.settings, key)} - {None}
    return list(dict.fromkeys(key for (_, key), of in values.items() if len(of) > 1))


def _number(settings: Settings, key: str) -> float | None:
    """Return the value of a setting if it is a number."""
    value = dict(settings).get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _without(key: str, row: Any) -> str:
    """Return the name of a row without a setting."""
    others = tuple(pair for pair in row.settings if pair[0] != key)
    return ", ".join([row.method, *setting_texts(others)])


def panels(rows: pd.DataFrame, plot: Plot) -> dict[str, Panel]:
    """Return a panel for each data set by title, after a panel of complete averages, if any.

    Where a setting does not concern a method, its curve is a level line.
    """
    positions = {}
    if plot.x == "shots":  # at equal distances: 1 and 2 shots are as far apart as 8 and 16
        positions = {shots: i for i, shots in enumerate(sorted(rows["shots"].unique()))}
    ticks: dict[float, str] = {position: str(shots) for shots, position in positions.items()}
    if not plot.x:  # several settings: a place for each choice of their values
        of_rank = rows.sort_values("rank")["settings"].unique()
        positions = {settings: i for i, settings in enumerate(of_rank)}
        ticks = {i: ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for _, v in of)
                 for of, i in positions.items()}  # fmt: skip
    found = [_number(settings, plot.x) for settings in rows["settings"]]
    values = sorted({x for x in found if x is not None})
    concerned = {curve for curve, x in zip(rows["curve"], found, strict=True) if x is not None}
    numbers = sorted(set(rows["shots"]) - {0})
    panels: dict[str, Panel] = {}
    for line in sorted(lines(rows), key=lambda line: not line[plot.y].average):
        row = line[plot.y]
        if known(row.mean) is None or (row.average and not row.complete):
            continue
        x_spread = None
        if positions:
            xs: list[float] = [positions[row.shots if plot.x else row.settings]]
        elif plot.kind == "plane":
            x, x_spread = known(line[plot.x].mean), known(line[plot.x].spread)
            xs = [] if x is None else [x]
        else:
            x = _number(row.settings, plot.x)
            xs = [x] if x is not None else [] if row.curve in concerned else values
        title = average_name(row).capitalize() if row.average else dataset_title(row.dataset)
        titles = [title]
        if len(numbers) > 1 and not positions:  # untrained methods, of 0 shots, are in all panels
            of = [row.shots] if row.shots else numbers
            titles = [f"{title}, {shots_text(shots)}" for shots in of]
        for title in titles if xs else ():
            panel = panels.setdefault(title, Panel(defaultdict(list), ticks))
            panel.curves[row.curve] += [
                Point(x, row.mean, x_spread, known(row.spread), row.complete) for x in xs
            ]
    return panels


def targets(rows: pd.DataFrame) -> dict[str, Panel]:
    """Return a panel for each source and shots, with a row for each data set and the average."""
    panels = {}
    for _, members in rows.groupby("table", sort=False):
        names = {row.Index: dataset_title(row.dataset) for row in members.itertuples()}
        names |= dict.fromkeys(members.index[members["average"]], "Average")
        places = {name: -i for i, name in enumerate(dict.fromkeys(names.values()))}  # downwards
        curves = defaultdict(list)
        for row in members.itertuples():
            if known(row.mean) is not None and (row.complete or not row.average):
                place = places[names[row.Index]]
                curves[row.curve].append(
                    Point(row.mean, place, known(row.spread), None, row.complete)
                )
        if curves:
            first = members.iloc[0]
            title = f"From {dataset_title(first['source'])}, {shots_text(first['shots'])}"
            panels[title] = Panel(curves, {place: name for name, place in places.items()})
    return panels
