"""One HTML page with all tables and plots, which needs nothing besides itself."""

import base64
from html import escape

from ..protocols.base import Protocol
from .plots import encoded, figures
from .rows import Row
from .tables import Table, tables

STYLE = """
body { margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 1rem; border-bottom: 1px solid #ccc; }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.5rem; padding: 0; list-style: none; }
a { color: #0b57a4; }
figure { margin: 1rem 0 2rem; }
figure img { max-width: 100%; height: auto; }
.table { margin: 1.5rem 0 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; max-width: calc(100vw - 4rem); }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap; }
thead th { border-top: 2px solid #333; border-bottom: 1px solid #333; }
tbody tr:last-child > * { border-bottom: 2px solid #333; }
tbody tr:nth-child(even) { background: #f5f6f8; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
figcaption, .note { font-size: .875rem; color: #4a4a4a; margin: .4rem 0; max-width: 60rem; }
.missing { font-size: .875rem; color: #8a1c1c; overflow-wrap: anywhere; }
.missing ul { margin: 0; padding-left: 1.2rem; }
"""


def page(listed: list[Row]) -> str:
    """The page of these rows."""
    return page_of(tables(listed), figures(listed))


def page_of(groups: dict[Protocol, list[Table]], drawn: dict[str, tuple]) -> str:
    """The page of these tables, with the figures that are drawn of their protocols."""
    sections, links = [], []
    for protocol, group in groups.items():
        name = protocol.name
        has_plot = protocol.plot is not None and protocol.plot.name in drawn
        plot = _figure(*drawn[protocol.plot.name]) if has_plot else ""
        links.append(f'<li><a href="#{name}">{protocol.title}</a></li>')
        blocks = [_table(table, f"{name}-{i}") for i, table in enumerate(group)]
        heading = f'<h2 id="{name}-heading">{protocol.title}</h2>'
        opening = f'<section id="{name}" aria-labelledby="{name}-heading">'
        sections.append("\n".join([opening, heading, plot, *blocks, "</section>"]))
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Prompt learning: results</title>\n<style>{STYLE}</style>\n</head>",
            "<body>\n<main>\n<h1>Prompt learning: results</h1>",
            f'<nav aria-label="Protocols"><ul>{"".join(links)}</ul></nav>',
            *sections,
            "</main>\n</body>\n</html>",
        ]
    )


def _figure(figure, sentence: str) -> str:
    image = base64.b64encode(encoded(figure, "svg")).decode()
    sentence = escape(sentence)
    return (
        f'<figure><img alt="{sentence} The numbers are in the tables below." '
        f'src="data:image/svg+xml;base64,{image}"><figcaption>{sentence}</figcaption></figure>'
    )


def _table(table: Table, name: str) -> str:
    """A table, its notes below it; on a narrow screen it scrolls, also by the keyboard."""
    best = [table.best(column) for column in range(len(table.head))]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    body = []
    for i, (first, *cells) in enumerate(table.lines):
        texts = [
            f"<strong>{escape(cell.text)}</strong>" if i in best[j] else escape(cell.text)
            for j, cell in enumerate(cells, 1)
        ]
        cells = "".join(f"<td>{text}</td>" for text in texts)
        body.append(f'<tr><th scope="row">{escape(first.text)}</th>{cells}</tr>')
    missing = []
    if table.problems:
        problems = "".join(f"<li>{escape(problem)}</li>" for problem in table.problems)
        missing = [f'<div class="missing">Not complete:<ul>{problems}</ul></div>']
    return "\n".join(
        [
            f'<div class="table" role="region" aria-labelledby="{name}" tabindex="0"><table>',
            f'<caption id="{name}">{escape(table.title)}</caption>',
            f"<thead><tr>{head}</tr></thead>\n<tbody>",
            *body,
            "</tbody></table></div>",
            f'<p class="note">{escape(" ".join(table.caption))}</p>',
            *missing,
        ]
    )
