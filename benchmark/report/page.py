"""A self-contained HTML page with all tables and plots."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from trainers.prompting import advice
from trainers.prompting.errors import printable

from ..protocols.base import Protocol
from . import pictures
from .classes import Classes, tests
from .compare import Comparisons
from .frame import main_rows
from .names import dataset_title, in_words
from .plots import WIDTH, Drawing, encode_figure, figures
from .summary import metric_of, usual_rows
from .table import Table, interval
from .tables import tables

FOLDERS = [Path(__file__).parent, Path(advice.__file__).parent]  # which has the style
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined
)


class Picture(NamedTuple):
    """A figure as base64 of SVG, with a sentence on it and its least width in pixels."""

    sentence: str
    data: str
    least: int


class Section(NamedTuple):
    """A section of the page: its anchor, heading, and a sentence without its period."""

    name: str
    title: str
    summary: str = ""


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


def _picture(figure: Figure, sentence: str) -> Picture:
    if figure.get_suptitle():  # it and the line below are in the sentence
        figure.suptitle("")
        figure.supxlabel("")
    figure.set_facecolor("none")  # the page's colour, also in the dark
    for axes in figure.axes:
        for part in (axes, *axes.child_axes):
            part.set_facecolor("none")
    data = base64.b64encode(encode_figure(figure, "svg")).decode()
    width = figure.get_figwidth()
    least = int(96 * width * (0.65 if width <= WIDTH else 0.9))
    return Picture(sentence, data, least)


def page_of(
    tidy: pd.DataFrame,
    rows: pd.DataFrame,
    views: Sequence[Comparisons | Classes] = (),
    all_published: bool = False,
    sentences: Sequence[str] = (),
) -> str:
    """Return a page with the tables and plots of rows of a summary by protocol, and of views.

    `sentences` come first. With `all_published`, methods that were not run have their published
    numbers, too.
    """
    sections: dict[Protocol | Section, list[Part]] = {}
    usual = usual_rows(rows)
    for protocol, of_protocol in tables(usual, all_published).items():
        of_main = main_rows(usual[usual["protocol"] == protocol.name])
        heading = metric_of(of_main["main"].iloc[0]).head.removesuffix(" (%)")
        sections[protocol] = [Part(heading, of_protocol, figures(of_main))]
    further = tables(rows.drop(usual.index))
    parts = [(view.heading, view.tables(), view.picture) for view in views]
    parts = [("More metrics", further, "reliability")] * bool(further) + parts
    kinds = list(filter(None, (kind for *_, kind in parts)))
    of_tests = tests(tidy, rows) if kinds else []
    pictured = pictures.figures(of_tests, kinds)
    for heading, by_protocol, kind in parts:
        for protocol, shown in by_protocol.items():
            tested = (test for test in of_tests if test.place["protocol"] == protocol.name)
            names = (f"{kind}_{test.name}" for test in tested)
            drawn = {name: pictured[name] for name in names if name in pictured}
            sections[protocol].append(Part(heading, shown, drawn))
    done = tidy["outcome"][tidy["problem"].isna()]
    results = {outcome.run.folder: outcome.result for outcome in done}  # some are in two tables
    sets = list(dict.fromkeys(rows["dataset"][~rows["average"]]))
    data = dataset_title(sets[0]) if len(sets) == 1 else f"{len(sets)} data sets"
    first, *others = [section.title for section in sections]
    titles = in_words([first, *(title[0].lower() + title[1:] for title in others)])
    return render_page(printable(f"{titles} on {data}"), sections, results.values(), sentences)


def render_page(
    title: str,
    sections: Mapping[Protocol | Section, list[Part]],
    results: Iterable[dict],
    sentences: Sequence[str] = (),
) -> str:
    """Return a page with a title, sentences, these parts, and last, facts of the records."""
    template = TEMPLATES.get_template("page.html.j2")
    about = _facts(results) | {"Page made on": str(datetime.date.today())}
    text = template.render(
        title=title, sentences=sentences, sections=sections, about=about, interval=interval
    )
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console


def _facts(results: Iterable[dict]) -> dict[str, str]:
    """Return facts about runs (backbone, commit, versions, ...) by term, from their records."""
    results = list(results)
    versions = [result.get("versions") or {} for result in results]
    said = {
        "Backbone": [result.get("backbone") for result in results],
        "Commit": [(result.get("git") or "")[:12] for result in results],
        "PyTorch": [version.get("torch") for version in versions],
        "Python": [version.get("python") for version in versions],
        "Precision": [result.get("precision") for result in results],
        "Device": [version.get("device") for version in versions],
    }
    terms = {
        term: ", ".join(sorted({str(v) for v in values if v})) for term, values in said.items()
    }
    terms["Runs"] = f"{len(results):,}"
    return {term: printable(text) for term, text in terms.items() if text}
