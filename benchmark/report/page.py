"""One HTML page with all tables and plots, which needs nothing besides itself."""

import base64
import datetime
from html import escape

from trainers.prompting.errors import printable

from ..protocols.base import Protocol
from .plots import Drawing, encoded, figures
from .rows import Row
from .tables import Table, tables

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #4a4a4a; --rule: #333;
  --line: #ccc; --stripe: #f5f6f8; --link: #0b57a4; --bad: #8a1c1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e6e6; --soft: #b0b4ba;
  --rule: #9aa0a8; --line: #3a3f46; --stripe: #1f2227; --link: #7ab8ff; --bad: #ff9a9a; } }
body { margin: 0; background: var(--paper); color: var(--ink); }
body { font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 1rem; border-bottom: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.5rem; padding: 0; list-style: none; }
a { color: var(--link); }
figure { margin: 1rem 0 2rem; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.table { margin: 1.5rem 0 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; max-width: calc(100vw - 4rem); }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap; }
thead th { border-top: 2px solid var(--rule); border-bottom: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 2px solid var(--rule); }
tbody tr:nth-child(even) { background: var(--stripe); }
tbody tr.published { color: var(--soft); font-style: italic; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody tr:nth-child(even) th:first-child { background: var(--stripe); }
tbody th { font-weight: 400; }
figcaption, .note { font-size: .875rem; color: var(--soft); margin: .4rem 0; max-width: 60rem; }
.missing { font-size: .875rem; color: var(--bad); overflow-wrap: anywhere; }
.missing ul { margin: 0; padding-left: 1.2rem; }
"""


def page(listed: list[Row], all_published: bool = False) -> str:
    """The page of these rows, with the published numbers of methods that were not run, or not."""
    return page_of(tables(listed, all_published), figures(listed), listed)


def page_of(groups: dict[Protocol, list[Table]], drawn: Drawing, listed: list[Row]) -> str:
    """The page of these tables, with the figures that are drawn of their protocols."""
    sections, links = [], []
    for protocol, group in groups.items():
        name = protocol.name
        has_plot = protocol.plot is not None and protocol.plot.name in drawn
        plot = _figure(*drawn[protocol.plot.name]) if has_plot else ""
        links.append(f'<li><a href="#{name}">{protocol.title}</a></li>')
        averages_first = sorted(group, key=lambda table: not table.of_averages)
        blocks = [_table(table, f"{name}-{i}") for i, table in enumerate(averages_first)]
        heading = f'<h2 id="{name}-heading">{protocol.title}</h2>'
        opening = f'<section id="{name}" aria-labelledby="{name}-heading">'
        first = [blocks.pop(0)] if averages_first[0].of_averages else []
        sections.append("\n".join([opening, heading, *first, plot, *blocks, "</section>"]))
    text = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Prompt learning: results</title>\n<style>{STYLE}</style>\n</head>",
            "<body>\n<main>\n<h1>Prompt learning: results</h1>",
            _about(listed),
            f'<nav aria-label="Protocols"><ul>{"".join(links)}</ul></nav>',
            *sections,
            "</main>\n</body>\n</html>",
        ]
    )
    return text.encode("ascii", "xmlcharrefreplace").decode()  # for any console


def _about(listed: list[Row]) -> str:
    """What the runs were made with: a list of terms."""
    runs = [
        outcome for row in listed for column in row.outcomes.values() for outcome in column.values()
    ]
    results = {outcome.run.folder: outcome.result for outcome in runs}  # one may be in two tables
    of_all = list(results.values())
    versions = [result.get("versions") or {} for result in of_all]
    said = {
        "Backbone": [result.get("backbone") for result in of_all],
        "Commit": [(result.get("git") or "")[:12] for result in of_all],
        "PyTorch": [version.get("torch") for version in versions],
        "Python": [version.get("python") for version in versions],
        "Device": [version.get("device") for version in versions],
    }
    terms = {
        term: ", ".join(sorted({str(v) for v in values if v})) for term, values in said.items()
    }
    terms |= {"Runs": f"{len(results):,}", "Page made on": str(datetime.date.today())}
    lines = [
        f"<dt>{term}</dt><dd>{escape(printable(text))}</dd>" for term, text in terms.items() if text
    ]
    return f"<dl>{''.join(lines)}</dl>"


def _figure(figure, sentence: str) -> str:
    image = base64.b64encode(encoded(figure, "svg")).decode()
    sentence = escape(sentence)
    return (
        f'<figure><img alt="{sentence} The numbers are in the tables." '
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
        published = first.text.endswith((", published", ", difference"))
        opening = '<tr class="published">' if published else "<tr>"
        body.append(f'{opening}<th scope="row">{escape(first.text)}</th>{cells}</tr>')
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
