"""A self-contained HTML page with all tables and plots."""

import base64
import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainers.prompting.errors import printable

from ..protocols.base import Protocol
from .plots import Drawing, encoded, figures
from .tables import Table, tables

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def page(rows: pd.DataFrame, all_published: bool = False) -> str:
    """Return the page of these rows; `all_published` adds methods that were not run."""
    return page_of(tables(rows, all_published), figures(rows), rows)


def page_of(groups: dict[Protocol, list[Table]], drawn: Drawing, rows: pd.DataFrame) -> str:
    """Return a page with these tables, and the figures of their protocols."""
    sections: list[dict[str, Any]] = []
    for protocol, group in groups.items():
        plot = protocol.plot
        found = [drawn[plot.name]] if plot and plot.name in drawn else []
        sections.append({
            "name": protocol.name,
            "title": protocol.title,
            "tables": sorted(group, key=lambda table: not table.of_averages),
            "figures": [
                (sentence, base64.b64encode(encoded(figure, "svg")).decode())
                for figure, sentence in found
            ],
        })  # fmt: skip
    template = TEMPLATES.get_template("page.html.j2")
    text = template.render(sections=sections, about=_about(rows))
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console


def _about(rows: pd.DataFrame) -> dict[str, str]:
    """Return facts about the runs (backbone, commit, versions, ...) by term."""
    outcomes = [
        outcome for runs in rows["runs"] for seeds in runs.values() for outcome in seeds.values()
    ]
    results = {outcome.run.folder: outcome.result for outcome in outcomes}  # some are in two tables
    versions = [result.get("versions") or {} for result in results.values()]
    said = {
        "Backbone": [result.get("backbone") for result in results.values()],
        "Commit": [(result.get("git") or "")[:12] for result in results.values()],
        "PyTorch": [version.get("torch") for version in versions],
        "Python": [version.get("python") for version in versions],
        "Device": [version.get("device") for version in versions],
    }
    terms = {
        term: ", ".join(sorted({str(v) for v in values if v})) for term, values in said.items()
    }
    terms |= {"Runs": f"{len(results):,}", "Page made on": str(datetime.date.today())}
    return {term: printable(text) for term, text in terms.items() if text}
