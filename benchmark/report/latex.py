"""LaTeX tables for a paper; they need the packages booktabs and graphicx.

The best number of a column is bold, the second best underlined. Base-to-new is one table of blocks
(the average, then each data set) as in CoCoOp's Table 1, and so is few-shot; each transfer protocol
is one table. Everything else (views) becomes a plain table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trainers.prompting.errors import printable

from ..protocols.base import shots_text
from . import published
from .frame import apart_note
from .names import dataset_title, method_name
from .tables import (
    INCOMPLETE,
    Cell,
    Table,
    average_name,
    edited_note,
    h_note,
    protocol_of,
    seeds_of,
    spread_note,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = r"$^\dagger$"  # after the name of a method with published numbers
ESCAPED = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"${sign}$" for sign in "<>|"},  # text letters of the usual fonts are others
        "[": "{[}",  # not an optional argument of the line above
        "±": r"$\pm$",
    }
)
SMALL = r"\small\setlength{\tabcolsep}{4pt}"
BLOCKS = r"\footnotesize\setlength{\tabcolsep}{3pt}\lineskip=6pt"  # TeX breaks their lines
MINUS = re.compile(r"(?<![\w-])-(?=\d|ln )|(?<= )-(?= )")
QUOTED = re.compile(r"(?<!\w)'([^']*)'(?!\w)")
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # if it is wider
LABEL = re.compile(r"\\label\{(tab:[^}]+)\}")
PACKAGES = r"% \usepackage{booktabs,graphicx}"


def papers(rows: pd.DataFrame, all_published: bool, deviations: bool = False) -> str:
    """Return the LaTeX of the tables of these rows.

    With `all_published`, methods that were not run have their published numbers, too; `deviations`
    adds the spread over the seeds to each mean.
    """
    texts = []
    for _, members in rows.groupby("group", sort=False):
        (group,) = tables(members, all_published).values()
        group.sort(key=lambda table: not table.of_averages)
        texts.append(_paper(group, deviations))
    return _document(texts)


def as_document(tables: Iterable[Table]) -> str:
    """Return the LaTeX of tables, one after the other."""
    return _document(map(as_latex, tables))


def _document(texts: Iterable[str]) -> str:
    """Join the LaTeX of tables, whose labels are numbered where they would be the same."""
    counts: Counter[str] = Counter()
    numbered = [PACKAGES]
    for text in texts:
        if label := LABEL.search(text):
            counts[label[1]] += 1
            if (number := counts[label[1]]) > 1:
                text = text.replace(f"{{{label[1]}}}", f"{{{label[1]}-{number}}}")
        numbered.append(text)
    return "\n\n".join(numbered)


def as_latex(table: Table) -> str:
    """Return one table as a float, followed by comments on what is missing."""
    head, lines = _row(map(escape, table.head)), mark_best(table)
    body = [SMALL, *tabular("l" + "r" * (len(table.head) - 1), [head], lines)]
    label = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
    return as_float(table.title, table.caption, label, body, table.problems)


def escape(text: str) -> str:
    """Escape text for LaTeX, except for the marks of published and of incomplete numbers."""
    text = QUOTED.sub(r"`\1'", printable(method_name(text)))
    text = MINUS.sub("\0", text).translate(ESCAPED).replace("\0", "$-$")
    for mark in (PUBLISHED, INCOMPLETE):
        text = text.replace(mark.translate(ESCAPED), mark)
    return text


def mark_best(table: Table, deviations: bool = False) -> list[list[str]]:
    """Return the cells in LaTeX, with the best and second best of each column marked."""
    best = table.all_best()
    second = table.all_best(1)

    def mark(i: int, j: int, cell: Cell) -> str:
        text = escape(cell.text)
        shown = deviations and cell.spread is not None
        spread = rf"$_{{\pm{cell.spread:.2f}}}$" if shown else ""
        if i in best[j]:
            text = rf"\textbf{{{text}}}"
        elif i in second[j]:
            text = rf"\underline{{{text}}}"
        return text + spread

    return [[mark(i, j, cell) for j, cell in enumerate(line)] for i, line in enumerate(table.lines)]


def as_float(
    title: str, caption: Sequence[str], label: str, body: Sequence[str], problems: Sequence[str]
) -> str:
    """Return a float as wide as the page, and comments on what is missing."""
    return "\n".join([
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escape(' '.join([f'{title}.', *caption]))}}}",
        rf"\label{{tab:{label}}}",
        r"\vspace{4pt}",
        *body,
        r"\end{table*}",
        *(f"% Not complete: {printable(what)}" for what in problems),
    ])  # fmt: skip


def tabular(
    columns: str, head: Sequence[str], lines: list[list[str]], title: str = ""
) -> list[str]:
    """Return a tabular with a title, the rows of a head, and lines of cells in LaTeX."""
    begin = [r"\begin{tabular}[t]", title] if title else [r"\begin{tabular}"]
    begin[0] += f"{{{columns}}}"
    return [FIT, *begin, r"\toprule", *head, r"\midrule", *map(_row, lines), r"\bottomrule",
            r"\end{tabular}}"]  # fmt: skip


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


# ------------------------------------------------------------------------ the tables of protocols


def _paper(group: list[Table], deviations: bool) -> str:
    """Return the tables of a protocol (and number of shots) as one; that of averages is first."""
    rows = sorted((row for table in group for row in table.rows), key=lambda row: row.average)
    first, protocol = rows[0], protocol_of(rows[0])
    what, place = protocol.title, [protocol.name]
    if protocol.across == "dataset":
        what += f" from {dataset_title(first.source)}"
        place.append(first.source)
    if protocol.across != "shots":
        what += f", {shots_text(first.shots)}"
        place.append(str(first.shots))
    names = {
        "columns": {name: name for name in protocol.columns.values()},
        "shots": {shots_text(number): str(number) for number in sorted({r.shots for r in rows})},
        "dataset": {name: name for name in group[0].head[1:]},
    }[protocol.across]
    printed = [_printed_columns(table, names) for table in group]
    means, seeds = "Means", seeds_of(rows)
    deviations = deviations and any(
        cell.spread is not None for table in printed for line in table.lines for cell in line
    )
    if deviations:
        means += " ± 95% intervals" if first.interval else " ± standard deviations"
    caption = [f"{means} over {seeds} seeds." if seeds > 1 else spread_note(seeds)]
    caption.append("Best in bold, second best underlined.")
    cited = {trainer for table in group for trainer in table.cited.values()}
    marks = {mark for row in rows for mark in row.beyond}
    sources = published.caption(protocol, cited, marks, first.group_published)
    sources = [sentence.replace("Published", PUBLISHED + " Published") for sentence in sources]
    caption += [*sources, *h_note(protocol), *edited_note(rows)]
    caption += apart_note(row for row in rows if row.average)
    make_body = _targets if protocol.across == "dataset" else _blocks
    body = make_body(printed, deviations)
    problems = [
        problem
        if row.average
        else f"{row.name}, {row.dataset}, {shots_text(row.shots)}, {row.column}: {problem}"
        for row in rows
        for problem in row.problems
    ]
    return as_float(f"{what}: accuracy (%)", caption, "-".join(place), body, problems)


def _printed_columns(table: Table, names: Mapping[str, str]) -> Table:
    """Return a table as in a paper: without differences, counts and costs.

    `names` are the columns shown, by their heads in the table, with their heads in the paper.
    """
    lines = []
    for number, (name, *cells) in enumerate(table.lines):
        if trainer := table.cited.get(number):
            row = table.rows[0]
            kinds = published.kinds(protocol_of(row), trainer, row.group_published)
            name = Cell(published.with_marks(method_name(trainer) + PUBLISHED, kinds))
        elif name.beside:
            continue
        by_head = dict(zip(table.head[1:], cells, strict=True))
        shown = [by_head.get(head, Cell("-")) for head in names]
        lines.append([name, *(cell._replace(text=cell.short or "--") for cell in shown)])
    corner = "Shots" if protocol_of(table.rows[0]).across == "shots" else ""
    return replace(table, head=[corner, *names.values()], lines=lines)


def _blocks(group: list[Table], deviations: bool) -> list[str]:
    """Return the body of a float with a block for each table, as many in a row as fit."""
    blocks = [BLOCKS]
    for number, table in enumerate(group):
        row, width = table.rows[0], len(table.head)
        what = average_name(row).capitalize() if row.average else dataset_title(row.dataset)
        title = rf"\multicolumn{{{width}}}{{c}}{{{escape(f'({chr(97 + number)}) {what}')}}} \\[2pt]"
        head = [_row(map(escape, table.head))]
        blocks += tabular("l" + "c" * (width - 1), head, mark_best(table, deviations), title)
        blocks.append(r"\hspace{1em}")
    return blocks


def _targets(group: list[Table], deviations: bool) -> list[str]:
    """Return the body of a table of a transfer protocol: the source, targets and average."""
    (table,) = group
    first, (_, *names) = table.rows[0], table.head
    turned = len(names) > 6
    heads = [rf"\rotatebox{{90}}{{{escape(name)}}}" if turned else escape(name) for name in names]
    groups = [rf"\multicolumn{{{len(names)}}}{{c}}{{Target}}"]
    rules = rf"\cmidrule(l){{2-{1 + len(names)}}}"
    if first.dataset == first.source:
        groups = [r"\multicolumn{1}{c}{Source}"]
        groups.append(rf"\multicolumn{{{len(names) - 1}}}{{c}}{{Target}}")
        rules = rf"\cmidrule(lr){{2-2}}\cmidrule(l){{3-{1 + len(names)}}}"
    head = [_row(["", *groups]), rules, _row(["", *heads])]
    return [SMALL, *tabular("l" + "c" * len(names), head, mark_best(table, deviations))]
