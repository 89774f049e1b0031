"""A self-contained HTML page with all tables and plots."""

import base64
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainers.prompting.errors import printable

from .plots import Drawing, encoded
from .tables import Table

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def page(groups: Mapping[Any, list[Table]], drawn: Drawing, results: Iterable[dict]) -> str:
    """Return a page with these tables, the figures of their protocols, and facts of the records.

    Args:
        groups: tables by protocol, or by what else has a `name` and a `title`.
        drawn: figures; the name of that group is in theirs.
        results: the records of the runs.
    """
    sections: list[dict[str, Any]] = []
    for protocol, group in groups.items():
        found = [of for name, of in drawn.items() if protocol.name in name]
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
    text = template.render(sections=sections, about=_about(list(results)))
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console


def _about(results: list[dict]) -> dict[str, str]:
    """Return facts about the runs (backbone, commit, versions, ...) by term."""
    versions = [result.get("versions") or {} for result in results]
    said = {
        "Backbone": [result.get("backbone") for result in results],
        "Commit": [(result.get("git") or "")[:12] for result in results],
        "PyTorch": [version.get("torch") for version in versions],
        "Python": [version.get("python") for version in versions],
        "Device": [version.get("device") for version in versions],
    }
    terms = {
        term: ", ".join(sorted({str(v) for v in values if v})) for term, values in said.items()
    }
    terms |= {"Runs": f"{len(results):,}", "Page made on": str(datetime.date.today())}
    return {term: printable(text) for term, text in terms.items() if text}
