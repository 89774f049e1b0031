"""Tables as text and markdown; rows as comma-separated values and JSON."""

import csv
import io
import json
from collections.abc import Callable
from statistics import mean

from tabulate import tabulate

from ..cli import csv_text
from ..protocols.base import Protocol
from . import published
from .averages import Average, averages
from .latex import as_latex, papers
from .rows import Row
from .tables import Table, tables

TABLE_STYLES = {"text": "simple", "markdown": "pipe", "latex": "latex_booktabs"}  # of tabulate
WIDTH = 120  # characters of a line of text; wider tables are folded


def render(listed: list[Row], form: str, all_published: bool = False) -> str:
    """All tables of these rows as `text`, `markdown` or `latex`; or the rows as `csv` or `json`.

    Args:
        listed: the rows.
        form: the format.
        all_published: the tables have the published numbers of methods that were not run, too.
    """
    if form == "json":
        found = {"rows": [record(row) for row in listed]}
        found["averages"] = [average_record(average) for average in averages(listed)]
        return json.dumps(found, indent=2)
    if form == "csv":
        return as_csv([record(row) for row in listed])
    if form == "latex":
        return papers(listed, all_published)
    return in_style(tables(listed, all_published), form)


def in_style(groups: dict[Protocol, list[Table]], form: str) -> str:
    """These tables as `text`, `markdown` or `latex`."""
    makers = {"text": as_text, "markdown": as_markdown, "latex": as_latex}
    return "\n\n".join(makers[form](table) for group in groups.values() for table in group)


def as_text(table: Table) -> str:
    """A table for the terminal, in pieces when it is wide."""
    lines = [[cell.text for cell in line] for line in table.lines]
    columns = list(zip(table.head, *lines, strict=True))
    pieces = [[columns[0]]]
    for column in columns[1:]:
        widths = [max(map(len, other)) + 2 for other in (*pieces[-1], column)]
        if sum(widths) - 2 > WIDTH:
            pieces.append([columns[0]])
        pieces[-1].append(column)
    drawn = [_tabulated(list(zip(*piece, strict=True)), "text") for piece in pieces]
    return "\n".join([table.title, "\n\n".join(drawn), *table.caption, *_problems(table)])


def as_markdown(table: Table) -> str:
    """A table with a bold title, the best of each column bold."""
    lines = [
        [text.replace("|", r"\|") for text in line] for line in _bold(table, lambda t: f"**{t}**")
    ]
    parts = [f"**{table.title}**", _tabulated([table.head, *lines], "markdown")]
    parts.append("\n".join(table.caption))
    if table.problems:
        heading, *problems = _problems(table)
        parts += [heading, "\n".join(problems)]
    return "\n\n".join(parts)


def _tabulated(lines, form: str) -> str:
    align = ["left"] + ["right"] * (len(lines[0]) - 1)
    style = TABLE_STYLES[form]
    return tabulate(lines[1:], lines[0], style, colalign=align, disable_numparse=True)


def _bold(table: Table, bold: Callable[[str], str]) -> list[list[str]]:
    """The texts of all cells, the best of each column made bold."""
    best = [table.best(column) for column in range(len(table.head))]
    return [
        [bold(cell.text) if i in best[j] else cell.text for j, cell in enumerate(line)]
        for i, line in enumerate(table.lines)
    ]


def _problems(table: Table) -> list[str]:
    return ["Not complete:", *(f"- {what}" for what in table.problems)] if table.problems else []


def record(row: Row) -> dict:
    """A row with plain numbers, for machines."""
    found = {"protocol": row.protocol.name}
    if row.source:
        found["source"] = row.source
    for name in ("dataset", "shots", "method", "trainer", "config"):
        found[name] = getattr(row, name)
    if row.variant:
        found["variant"] = row.variant
    found["from_logs"] = bool(row.label)
    found["split"] = " and ".join(sorted(row.splits))
    found["seeds"] = row.seeds
    for column in row.protocol.columns:
        found[f"{column}_mean"] = row.mean(column)
        found[f"{column}_std"] = row.std(column)
        if row.interval:
            found[f"{column}_half_interval_95"] = row.half_interval(column)
        found[f"{column}_n"] = len(row.values[column])
    found |= _published_record(row)
    found["num_params"] = row.num_params
    found["train_seconds"] = mean(row.train_seconds) if row.train_seconds else None
    found["peak_memory_mib"] = row.peak_memory
    found["problems"] = [f"{part}: {why}" for part in row.problems for why in row.problems[part]]
    return found


def _published_record(of: Row | Average) -> dict:
    theirs = published.published(of)
    if theirs is None:
        return {}
    found: dict = {"published_source": theirs.source}
    found["published_is_misprint"] = published.misprint(of)
    for column, value in theirs.values.items():
        found[f"{column}_published"] = value
        found[f"{column}_difference"] = published.difference(of, column)
    return found


def average_record(average: Average) -> dict:
    """An average with plain numbers, for machines."""
    found = {"protocol": average.protocol.name, "shots": average.shots, "method": average.method}
    if average.variant:
        found["variant"] = average.variant
    found |= {"datasets": average.datasets, "of": average.of} | average.means
    return found | _published_record(average)


def as_csv(records: list[dict]) -> str:
    """The records as comma-separated values; lists joined by semicolons."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        for key in ("seeds", "problems"):
            record[key] = "; ".join(map(str, record[key]))
        writer.writerow({k: csv_text(v) if isinstance(v, str) else v for k, v in record.items()})
    return text.getvalue().rstrip("\n")
