"""Tables as text, markdown and LaTeX; rows as comma-separated values and JSON."""

import csv
import io
import json
from statistics import mean

from tabulate import tabulate

from ..protocols.base import Protocol
from . import published
from .rows import Average, Row, averages
from .tables import Table, tables

TABLE_STYLES = {"text": "simple", "markdown": "pipe", "latex": "latex_booktabs"}
WIDTH = 120  # characters of a line of text; wider tables are folded

LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
)


def render(listed: list[Row], form: str) -> str:
    """All tables of these rows as `text`, `markdown` or `latex`; or the rows as `csv` or `json`."""
    if form == "json":
        found = {"rows": [record(row) for row in listed]}
        found["averages"] = [average_record(average) for average in averages(listed)]
        return json.dumps(found, indent=2)
    if form == "csv":
        return as_csv([record(row) for row in listed])
    return in_style(tables(listed), form)


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


def as_latex(table: Table) -> str:
    """A table for the package booktabs; what is missing stands in comments below it."""
    lines = _bold(table, lambda text: rf"\textbf{{{text}}}", lambda text: text.translate(LATEX))
    head = [name.translate(LATEX) for name in table.head]
    caption = " ".join([f"{table.title}.", *table.caption]).translate(LATEX)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(head)} \\",
            r"\midrule",
            *(rf"{' & '.join(line)} \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *(f"% {problem}" for problem in _problems(table)),
        ]
    )


def _tabulated(lines, form: str) -> str:
    align = ["left"] + ["right"] * (len(lines[0]) - 1)
    style = TABLE_STYLES[form]
    return tabulate(lines[1:], lines[0], style, colalign=align, disable_numparse=True)


def _bold(table: Table, bold, escape=str) -> list[list[str]]:
    """The texts of all cells, the best of each column made bold."""
    best = [table.best(column) for column in range(len(table.head))]
    return [
        [
            bold(escape(cell.text)) if i in best[j] else escape(cell.text)
            for j, cell in enumerate(line)
        ]
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
    if row.protocol.published:
        found["published"] = published.published(row)
        found["published_is_misprint"] = found["published"] is not None and published.misprint(row)
        found["difference"] = published.difference(row)
    found["num_params"] = row.num_params
    found["train_seconds"] = mean(row.train_seconds) if row.train_seconds else None
    found["peak_memory_mib"] = row.peak_memory
    found["problems"] = [f"{part}: {why}" for part in row.problems for why in row.problems[part]]
    return found


def average_record(average: Average) -> dict:
    """An average with plain numbers, for machines."""
    found = {"protocol": average.protocol.name, "shots": average.shots, "method": average.method}
    if average.variant:
        found["variant"] = average.variant
    return found | {"datasets": average.datasets, "of": average.of} | average.means


def as_csv(records: list[dict]) -> str:
    """The records as comma-separated values; lists joined by semicolons."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        for key in ("seeds", "problems"):
            record[key] = "; ".join(map(str, record[key]))
        writer.writerow(record)
    return text.getvalue().rstrip("\n")
