"""Render tables as text, markdown, LaTeX or HTML, and rows as CSV or JSON."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from tabulate import tabulate

from trainers.prompting.errors import printable

from ..records import COSTS
from .frame import each_row, setting_texts
from .notes import bold_note, interval, notes
from .summary import minus_published, published_beside
from .tables import Table, number_or_none, tables

if TYPE_CHECKING:
    import pandas as pd

TABLE_STYLES = {"text": "simple", "markdown": "pipe"}  # of tabulate
TABLE_FORMATS = (*TABLE_STYLES, "latex")
FORMATS = (*TABLE_FORMATS, "csv", "json", "html")
WIDTH = 120  # characters in a line of text that is not for a terminal; wider tables are split


class View(Protocol):
    """Further tables: comparisons, or the classes."""

    heading: str
    picture: str  # the kind of its figures, a key of `pictures.PICTURES`; empty for none

    def tables(self) -> dict[Any, list[Table]]:
        """Return the tables of each protocol."""

    def records(self) -> list[dict]:
        """Return their numbers."""


def render(
    rows: pd.DataFrame | None,
    form: str,
    all_published: bool = False,
    sentences: Sequence[str] = (),
    views: Sequence[View] = (),
) -> str:
    """Return all tables of these rows and views, or in CSV and JSON their numbers; not as HTML.

    `form` is one of FORMATS; in CSV there are rows or a view. With `all_published`, methods that
    were not run have their published numbers, too. `sentences` come first, not in CSV.
    """
    if form in TABLE_FORMATS:
        further = chain.from_iterable(of for view in views for of in view.tables().values())
        groups = [*_groups(rows, form, all_published), *([table] for table in further)]
        return lead(sentences, form) + in_style(groups, form)
    records: dict[str, list] = {"findings": [*sentences]} if sentences else {}
    if rows is not None:
        records |= {"rows": [], "averages": []}
        several = rows["metric"].nunique() > 1
        for _, line in rows.groupby(["line", "metric"], sort=False):
            numbers = list(each_row(line))
            of_line = {"metric": numbers[0].metric} if several else {}
            records["averages" if numbers[0].average else "rows"].append(of_line | record(numbers))
    records |= {type(view).__name__.lower(): view.records() for view in views}
    if form == "json":
        return json.dumps(records, indent=2)
    return as_csv(records["rows"] if rows is not None else views[0].records())


def _groups(rows: pd.DataFrame | None, form: str, all_published: bool) -> Iterator[list[Table]]:
    """Yield the tables of rows; in LaTeX, those that are joined, averages first."""
    if rows is None:
        return
    if form != "latex":
        yield from tables(rows, all_published).values()
        return
    for _, of in rows.groupby(["metric", "group"], sort=False):
        (joint,) = tables(of, all_published).values()
        yield sorted(joint, key=lambda table: not table.of_averages)


def lead(sentences: Sequence[str], form: str) -> str:
    """Return sentences as they stand before the tables, each in a line; a comment in LaTeX."""
    mark, end = {"text": ("", "\n"), "markdown": ("", "\n\n"), "latex": ("% ", "\n")}[form]
    texts = map(_escape, sentences) if form == "markdown" else sentences
    text = "".join(f"{mark}{sentence}{end}" for sentence in texts)
    return f"{text}\n" if text and form != "markdown" else text


def in_style(groups: Iterable[Sequence[Table]], form: str) -> str:
    """Return tables as `text`, `markdown` or `latex`, where each group is one table."""
    if form == "latex":
        from .latex import as_document

        return as_document(groups)
    style = {"text": as_text, "markdown": as_markdown}[form]
    return "\n\n".join(map(style, chain.from_iterable(groups)))


def as_text(table: Table) -> str:
    """Return a table for the terminal; a wide one is split into pieces."""
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else WIDTH
    lines = [[f"{cell.text} {interval(cell)}".rstrip() for cell in line] for line in table.lines]
    first, *others = zip(table.head, *lines, strict=True)
    pieces = [[first]]
    for column in others:
        # tabulate makes a column two wider than its head
        widths = [
            2 + max([2 + len(head), *map(len, rest)]) for head, *rest in (*pieces[-1], column)
        ]
        if sum(widths) - 2 > width:
            pieces.append([first])
        pieces[-1].append(column)
    texts = [_tabulate(list(zip(*piece, strict=True)), "text") for piece in pieces]
    return "\n".join([table.title, "\n\n".join(texts), *notes(table), *_problems(table)])


def as_markdown(table: Table) -> str:
    """Return a table in markdown, with its title and the best of each column in bold."""
    escaped = [
        [cell._replace(text=_escape(f"{cell.text} {interval(cell)}".rstrip())) for cell in line]
        for line in table.lines
    ]
    lines = _bold(replace(table, lines=escaped), lambda t: f"**{t}**")
    head = [_escape(text) for text in table.head]
    parts = [f"**{_escape(table.title)}**", _tabulate([head, *lines], "markdown")]
    parts.append("\n".join([*notes(table), *bold_note(table)]))
    if table.problems:
        heading, *problems = map(_escape, _problems(table))
        parts += [heading, "\n".join(problems)]
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    """Return a text in which markdown reads no mark, such as the name of a class."""
    return re.sub(r"[\\`*_<>|]|\](?=\()", r"\\\g<0>", text)


def _tabulate(lines, form: str) -> str:
    align = ["left"] + ["right"] * (len(lines[0]) - 1)
    style = TABLE_STYLES[form]
    return tabulate(lines[1:], lines[0], style, colalign=align, disable_numparse=True)


def _bold(table: Table, bold: Callable[[str], str]) -> list[list[str]]:
    """Return the texts of all cells, with the best of each column in bold."""
    best = table.all_best()
    return [
        [bold(cell.text) if i in best[j] else cell.text for j, cell in enumerate(line)]
        for i, line in enumerate(table.lines)
    ]


def _problems(table: Table) -> list[str]:
    return ["Not complete:", *(f"- {what}" for what in table.problems)] if table.problems else []


OPTIONAL = ("source", "settings", "beyond", "other_code", "differing", "origin")  # not if empty


def record(line: list[Any]) -> dict:
    """Return the rows of a line as plain numbers, by the keys of CSV and JSON."""
    first = line[0]
    names = ["protocol", "source", "dataset", "shots", "method", "trainer", "config"]
    if first.average:
        names = ["protocol", "shots", "method"]
    values = {name: getattr(first, name) for name in names}
    values |= {"settings": ", ".join(setting_texts(first.settings)), "beyond": first.beyond}
    values |= {"other_code": first.edited}
    if first.average:
        values |= {"datasets": first.count, "of": first.of, "differing": first.apart}
        values |= {row.column: row.mean for row in line if first.count}
    else:
        values |= {"origin": first.origin, "from_logs": bool(first.label)}
        values |= {"split": first.split, "seeds": first.seeds}
        for row in line:
            values[f"{row.column}_mean"] = number_or_none(row.mean)
            values[f"{row.column}_std"] = number_or_none(row.std)
            if row.interval:
                values[f"{row.column}_half_interval_95"] = number_or_none(row.spread)
            values[f"{row.column}_n"] = row.count
    if theirs := published_beside(first):
        values["published_source"] = theirs.source
        values["published_is_misprint"] = theirs.misprint
        for row in line:
            values[f"{row.column}_published"] = theirs.values[row.column]
            values[f"{row.column}_difference"] = minus_published(row)
    if not first.average:
        values |= {key: number_or_none(getattr(first, key)) for key in COSTS}
        if values["num_params"] is not None:
            values["num_params"] = int(values["num_params"])
        values["problems"] = [f"{row.column}: {why}" for row in line for why in row.problems]
    return {key: value for key, value in values.items() if value or key not in OPTIONAL}


def as_csv(records: list[dict]) -> str:
    """Return the records as comma-separated values; lists are joined by semicolons."""
    import pandas as pd

    for record in records:
        for key, value in record.items():
            text = "; ".join(map(str, value)) if isinstance(value, list) else value
            record[key] = printable(text) if isinstance(text, str) else text
    table = pd.DataFrame(records, dtype=object)  # integers next to missing numbers stay integers
    return table.to_csv(index=False, lineterminator="\n").rstrip("\n")
