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
from itertools import chain
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
NOTHING = Cell("--")
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
TALL = 52  # lines of a table on a page, in these letters
COLUMN = 46  # characters, with two for each column of a table, of a line that fits in a column
SMALLEST = r"\tiny"
PAGES = {r"\footnotesize": 64, r"\scriptsize": 79, SMALLEST: 106}  # lines on a page, with rules
LINE = 150  # characters of the blocks in a row, counted as in COLUMN; about 130 before they shrink
LONG = 700  # characters of a caption; a longer one leaves the sources to the text
MINUS = re.compile(r"(?<![\w-])-(?=\d|ln )|(?<= )-(?= )")
QUOTED = re.compile(r"(?<!\w)'([^']*)'(?!\w)")
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # if it is wider
LABEL = re.compile(r"\\label\{(tab:[^}]+)\}")
SAME = r"\addtocounter{table}{-1}"  # of a table that is continued
PACKAGES = r"% \usepackage{booktabs,graphicx}"


def papers(rows: pd.DataFrame, all_published: bool, deviations: bool = False) -> str:
    """Return the LaTeX of the tables of these rows.

    With `all_published`, methods that were not run have their published numbers, too; `deviations`
    adds the spread over the seeds to each mean.
    """
    texts = [PACKAGES]
    for _, members in rows.groupby("group", sort=False):
        (group,) = tables(members, all_published).values()
        group.sort(key=lambda table: not table.of_averages)
        texts.append(_paper(group, deviations))
    return "\n\n".join(number_labels(texts))


def number_labels(texts: Iterable[str]) -> list[str]:
    """Return the LaTeX of tables, whose labels are numbered where they would be the same."""
    counts: Counter[str] = Counter()
    numbered = []
    for text in texts:
        if label := LABEL.search(text):
            counts[label[1]] += 1
            if (number := counts[label[1]]) > 1:
                text = text.replace(f"{{{label[1]}}}", f"{{{label[1]}-{number}}}")
        numbered.append(text)
    return numbered


def as_latex(table: Table) -> str:
    """Return one table as a float, followed by comments on what is missing.

    The float is as wide as the page where a column is too narrow, and continued where a page is too
    short.
    """
    head, lines = _row(map(escape, table.head)), mark_best(table)
    bodies = [
        [SMALL, *tabular("l" + "r" * (len(table.head) - 1), [head], lines[start : start + TALL])]
        for start in range(0, max(1, len(lines)), TALL)
    ]
    kind = "table*" if _width(table) > COLUMN else "table"
    label = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
    return floats(kind, table.title, table.caption, label, bodies, table.problems)


def escape(text: str) -> str:
    """Escape text for LaTeX, except for the marks of published and of incomplete numbers."""
    text = QUOTED.sub(r"`\1'", printable(method_name(text)))
    text = MINUS.sub("\0", text).translate(ESCAPED).replace("\0", "$-$")
    for mark in (PUBLISHED, INCOMPLETE):
        text = text.replace(mark.translate(ESCAPED), mark)
    return text


def mark_best(table: Table) -> list[list[str]]:
    """Return the cells in LaTeX, with the best and second best of each column marked."""
    best = table.all_best()
    second = table.all_best(1)

    def mark(i: int, j: int, cell: Cell) -> str:
        text = escape(cell.text)
        spread = "" if cell.spread is None else rf"$_{{\pm{cell.spread:.2f}}}$"
        if i in best[j]:
            text = rf"\textbf{{{text}}}"
        elif i in second[j]:
            text = rf"\underline{{{text}}}"
        return text + spread

    return [[mark(i, j, cell) for j, cell in enumerate(line)] for i, line in enumerate(table.lines)]


def floats(
    kind: str,
    title: str,
    caption: Sequence[str],
    label: str,
    bodies: Sequence[Sequence[str]],
    problems: Sequence[str],
) -> str:
    """Return a float for each body, all with one number, and comments on what is missing."""
    parts = []
    for number, body in enumerate(bodies):
        text = " ".join([f"{title} (continued)."] if number else [f"{title}.", *caption])
        parts.append("\n".join([
            rf"\begin{{{kind}}}[t]",
            r"\centering",
            *([SAME] if number else []),
            rf"\caption{{{escape(text)}}}",
            *([] if number else [rf"\label{{tab:{label}}}"]),
            r"\vspace{4pt}",
            *body,
            rf"\end{{{kind}}}",
            *([] if number else [f"% Not complete: {printable(what)}" for what in problems]),
        ]))  # fmt: skip
    return "\n\n".join(parts)


def tabular(columns: str, head: Sequence[str], lines: list[list[str]]) -> list[str]:
    """Return a tabular with the rows of a head, and lines of cells in LaTeX."""
    return [FIT, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, r"\midrule",
            *map(_row, lines), r"\bottomrule", r"\end{tabular}}"]  # fmt: skip


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _width(table: Table) -> int:
    """Return the characters of the widest line, with two for each column."""
    columns = zip(*([*map(Cell, table.head)], *table.lines), strict=True)
    return sum(2 + max(map(_length, column)) for column in columns)


def _length(cell: Cell) -> int:
    text = cell.text.replace(PUBLISHED, "+").replace(INCOMPLETE, "*")
    return len(text) + (0 if cell.spread is None else 6)  # a spread is set in smaller letters


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
    printed = [_printed_columns(table, names, deviations) for table in group]
    means, seeds = "Means", seeds_of(rows)
    if _has_spread(printed):
        means += " ± 95% intervals" if first.interval else " ± standard deviations"
    caption = [f"{means} over {seeds} seeds." if seeds > 1 else spread_note(seeds)]
    caption.append("Best in bold, second best underlined.")
    cited = {trainer for table in group for trainer in table.cited.values()}
    marks = {mark for row in rows for mark in row.beyond}
    sources = published.caption(protocol, cited, marks, first.group_published)
    sources = [sentence.replace("Published", PUBLISHED + " Published") for sentence in sources]
    fit = len(" ".join(sources)) <= LONG
    caption += sources if fit else []
    caption += [*h_note(protocol), *edited_note(rows)]
    caption += apart_note(row for row in rows if row.average)
    if protocol.across == "dataset":
        bodies = [_targets(*printed)]
    else:
        bodies = _sheets(printed, len(" ".join(caption)) // 100)
    problems = [
        problem
        if row.average
        else f"{row.name}, {row.dataset}, {shots_text(row.shots)}, {row.column}: {problem}"
        for row in rows
        for problem in row.problems
    ]
    label = "-".join(place)
    text = floats("table*", f"{what}: accuracy (%)", caption, label, bodies, problems)
    if fit:
        return text
    return f"{text}\n" rf"\paragraph{{Table~\ref{{tab:{label}}}}} {escape(' '.join(sources))}"


def _printed_columns(table: Table, names: Mapping[str, str], deviations: bool) -> Table:
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
        shown = [(by_head[head].paper if head in by_head else None) or NOTHING for head in names]
        lines.append([name, *(x if deviations else x._replace(spread=None) for x in shown)])
    corner = "Shots" if protocol_of(table.rows[0]).across == "shots" else ""
    return replace(table, head=[corner, *names.values()], lines=lines)


def _sheets(group: list[Table], caption: int) -> list[list[str]]:
    """Return the bodies of floats that each fit on a page, with a block for each table.

    `caption` is the number of lines of the caption.
    """
    beside = max(1, min(3, LINE // max(map(_width, group))))
    blocks = []
    for number, table in enumerate(group):
        row = table.rows[0]
        what = average_name(row).capitalize() if row.average else dataset_title(row.dataset)
        head = _row(map(escape, table.head))
        blocks.append([
            rf"\begin{{minipage}}[t]{{{0.95 / beside:.2f}\textwidth}}\centering",
            rf"{escape(f'({chr(97 + number)}) {what}')}\\[2pt]",
            *tabular("l" + "c" * (len(table.head) - 1), [head], mark_best(table)),
            r"\vspace*{6pt}\end{minipage}",
        ])  # fmt: skip
    tallest = max(map(len, blocks))
    letters = next((size for size, page in PAGES.items() if tallest + caption <= page), SMALLEST)
    fit = beside * max(1, (PAGES[letters] - caption) // tallest)  # TeX breaks the lines
    begin = rf"{letters}\setlength{{\tabcolsep}}{{3pt}}"
    return [[begin, *chain(*blocks[start : start + fit])] for start in range(0, len(blocks), fit)]


def _targets(table: Table) -> list[str]:
    """Return the body of a table of a transfer protocol: the source, targets and average."""
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
    wide = turned and _has_spread([table])
    body = tabular("l" + "c" * len(names), head, mark_best(table))
    return [r"\scriptsize\setlength{\tabcolsep}{2pt}" if wide else SMALL, *body]


def _has_spread(group: Sequence[Table]) -> bool:
    return any(cell.spread is not None for table in group for line in table.lines for cell in line)
