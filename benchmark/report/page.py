"""A self-contained HTML page with all tables and plots."""

import base64
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from trainers.prompting import advice

from ..protocols.base import Protocol
from .facts import MADE_WITH, facts
from .plots import WIDTH, Drawing, encode_figure, figures
from .tables import Cell, Section, Table, number_or_none, tables
from .views import View, pictures_of

FOLDERS = [Path(__file__).parent, Path(advice.__file__).parent]  # which has the style
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined
)


FEW = 1000  # test images; with fewer, an accuracy has an interval
ONE_RUN = (
    "[low, high]: 95% interval (Wilson) for other test images, shown for fewer than 1,000; other "
    "trainings are not in it."
)
SEEDS = (
    "± is not about other test images: with {} of them, the 95% interval (Wilson) of an accuracy "
    "of 50% reaches from {:.0f} to {:.0f}%."
)


class Picture(NamedTuple):
    """A figure as base64 of SVG, with a sentence on it and its least width in pixels."""

    sentence: str
    data: str
    least: int


class Part(NamedTuple):
    """A part of a section: its heading, shown where there are several, tables, and figures."""

    heading: str
    tables: Sequence[Table]
    drawn: Drawing

    def tables_with_figures(self) -> Iterator[tuple[Table, list[Picture]]]:
        """Yield each table, averages first, with the figures below it.

        Figures that belong to no table are below the first.
        """
        own = {table.picture for table in self.tables}
        below = [name for name in self.drawn if name not in own]
        for table in sorted(self.tables, key=lambda table: not table.of_averages):
            names = [*below, *([table.picture] if table.picture in self.drawn else [])]
            yield table, [_picture(*self.drawn[name]) for name in names]
            below = []


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of an accuracy (%)."""
    from scipy.stats import binomtest  # slow to load

    right = round(images * accuracy / 100)
    low, high = binomtest(right, images).proportion_ci(method="wilson")
    return 100 * low, 100 * high


def interval(cell: Cell) -> str:
    """Return the interval of the accuracy of one run on few images; empty for other cells."""
    if not cell.images or cell.images >= FEW or cell.value is None:
        return ""
    low, high = wilson(cell.value, cell.images)
    return f"[{low:.1f}, {high:.1f}]"


def notes(table: Table) -> list[str]:
    """Return the sentences below a table; with few test images, one on what chance they leave."""
    cells = list(chain(*table.lines))
    if any(map(interval, cells)):
        return [*table.caption, ONE_RUN]
    tested = {
        int(row.images) for row in table.rows if not row.average and number_or_none(row.images)
    }
    some = sorted(count for count in tested if 0 < count < FEW)
    if not some or not any("±" in cell.text for cell in cells):
        return table.caption
    least = f"{some[0]}" + " (the fewest here)" * (len(tested) > 1)
    return [*table.caption, SEEDS.format(least, *wilson(50, some[0]))]


def _picture(figure: Figure, sentence: str) -> Picture:
    data = base64.b64encode(encode_figure(figure, "svg")).decode()
    width = figure.get_figwidth()
    return Picture(sentence, data, int(96 * width * (0.65 if width <= WIDTH else 0.9)))


def page_of(
    tidy: pd.DataFrame,
    table_rows: pd.DataFrame,
    views: Sequence[View] = (),
    all_published: bool = False,
    origins: Sequence[Table] = (),
) -> str:
    """Return a page with the usual tables and plots of each protocol, of views, and `origins`.

    With `all_published`, methods that were not run have their published numbers, too. `origins` are
    tables on what the runs were made with.
    """
    sections: dict[Protocol | Section, list[Part]] = {}
    for protocol, usual in tables(table_rows, all_published).items():
        drawn = figures(table_rows[table_rows["protocol"] == protocol.name])
        sections[protocol] = [Part("Accuracy", usual, drawn)]
    told: set[str] = set()
    for view in views:
        for protocol, of_view in view.tables().items():
            sections[protocol] += [Part(view.heading, of_view, pictures_of(view, told, protocol))]
    if origins:
        sections[MADE_WITH] = [Part("", origins, {})]
    done = tidy["outcome"][tidy["problem"].isna()]
    results = {outcome.run.folder: outcome.result for outcome in done}  # some are in two tables
    return render_page(sections, results.values())


def render_page(sections: Mapping[Protocol | Section, list[Part]], results: Iterable[dict]) -> str:
    """Return a page with these parts, and facts of the records."""
    template = TEMPLATES.get_template("page.html.j2")
    about = facts(results) | {"Page made on": str(datetime.date.today())}
    text = template.render(sections=sections, about=about, interval=interval, notes=notes)
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console
