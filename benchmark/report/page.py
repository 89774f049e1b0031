"""A self-contained HTML page with all tables and plots."""

import base64
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .facts import facts
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
        drawings = [drawing for name, drawing in drawn.items() if protocol.name in name]
        sections.append({
            "name": protocol.name,
            "title": protocol.title,
            "tables": sorted(group, key=lambda table: not table.of_averages),
            "figures": [
                (sentence, base64.b64encode(encoded(figure, "svg")).decode())
                for figure, sentence in drawings
            ],
        })  # fmt: skip
    template = TEMPLATES.get_template("page.html.j2")
    about = facts(results) | {"Page made on": str(datetime.date.today())}
    text = template.render(sections=sections, about=about)
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console
