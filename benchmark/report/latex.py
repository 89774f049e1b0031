"""LaTeX tables for a paper; they need the packages booktabs and graphicx.

The best number of a column is bold, the second best underlined. Base-to-new is one table of blocks
(the average, then each data set) as in CoCoOp's Table 1, and so is few-shot; each transfer protocol
is one table. Everything else (ablations, views) becomes a plain table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainers.prompting.errors import printable

from ..protocols.base import shots_text
from . import published
from .frame import apart_note, each_row
from .names import dataset_title, method_name
from .tables import (
    AVERAGE_H,
    INCOMPLETE,
    NOTHING_IN_A_PAPER,
    PUBLISHED,
    Cell,
    Table,
    average_name,
    protocol_of,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd

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
# Lines that fill a page in the smallest letters, and that fit in larger ones; rules count as lines.
PAGE = 88
SIZES = ((60, r"\small"), (70, r"\footnotesize"))
SMALLEST = r"\scriptsize"
SMALL = r"\small\setlength{\tabcolsep}{4pt}"
MINUS = re.compile(r"(?<![\w-])-(?=\d|ln )|(?<= )-(?= )")
QUOTED = re.compile(r"(?<!\w)'([^']*)'(?!\w)")
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # if it is wider
COLUMN = 46  # characters, with two for each column of a table, of a line that fits in a column
ROOM = {3: 46, 2: 84}  # the same in \scriptsize of blocks, by their number in a row
LONG = 700  # characters of a caption; a longer one leaves the sources to the text
TALL = 52  # lines of a table on a page, in \small
SAME = r"\addtocounter{table}{-1}"  # of a table that is continued
PACKAGES = r"% \usepackage{booktabs,graphicx}"


def papers(rows: pd.DataFrame, all_published: bool, deviations: bool = False) -> str:
    """Return the LaTeX of the tables of these rows.

    Args:
        rows: a data frame as `rows` makes it.
        all_published: also show published numbers of methods that were not run.
        deviations: show the spread over the seeds after each mean.
    """
    found = [PACKAGES]
    if not deviations:
        rows = rows.assign(spread=None)
    for _, members in rows.groupby("group", sort=False):
        protocol = protocol_of(members)
        group = tables(members, all_published, paper=not protocol.by_variant)[protocol]
        if protocol.by_variant:
            found += [as_latex(table) for table in group if not table.of_averages]
        elif protocol.across == "dataset":
            found.append(_of_targets(group[0], members))
        else:
            found.append(_of_blocks(group, members))
    return "\n\n".join(found)


def as_latex(table: Table) -> str:
    """Return one table as a float, followed by comments on what is missing.

    The float is as wide as the page where a column is too narrow, and continued where a page is too
    short.
    """
    head = [escape(name) for name in table.head]
    kind = "table*" if _width(table) > COLUMN else "table"
    label = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
    lines, found = marked(table), []
    for start in range(0, max(1, len(lines)), TALL):
        body = tabular("l" + "r" * (len(head) - 1), [_row(head)], lines[start : start + TALL])
        if start:
            caption = escape(f"{table.title} (continued).")
            found.append(floating(kind, caption, "", [SMALL, *body], []))
        else:
            caption = escape(" ".join([f"{table.title}.", *table.caption]))
            found.append(floating(kind, caption, label, [SMALL, *body], table.problems))
    return "\n\n".join(found)


def escape(text: str) -> str:
    """Escape text for LaTeX, except for the marks of published and of incomplete numbers."""
    text = QUOTED.sub(r"`\1'", printable(method_name(text)))
    text = MINUS.sub("\0", text).translate(ESCAPED).replace("\0", "$-$")
    for mark in (PUBLISHED, INCOMPLETE):
        text = text.replace(mark.translate(ESCAPED), mark)
    return text


def marked(table: Table) -> list[list[str]]:
    """Return the cells in LaTeX, with the best and second best of each column marked."""
    best = [table.best(column) for column in range(len(table.head))]
    second = [table.best(column, 1) for column in range(len(table.head))]

    def mark(i: int, j: int, cell: Cell) -> str:
        text = escape(cell.text)
        spread = "" if cell.spread is None else rf"$_{{\pm{cell.spread:.2f}}}$"
        if i in best[j]:
            text = rf"\textbf{{{text}}}"
        elif i in second[j]:
            text = rf"\underline{{{text}}}"
        return text + spread

    return [[mark(i, j, cell) for j, cell in enumerate(line)] for i, line in enumerate(table.lines)]


def floating(
    kind: str,
    caption: str,
    label: str,
    body: Sequence[str],
    problems: Sequence[str],
    sources: Sequence[str] = (),
) -> str:
    """Return a float around a body, comments on what is missing, and a paragraph of sources.

    Without a label, it continues the last float.
    """
    text = escape(" ".join(sources))
    return "\n".join(
        [
            rf"\begin{{{kind}}}[t]",
            r"\centering",
            *([] if label else [SAME]),
            rf"\caption{{{caption}}}",
            *([rf"\label{{tab:{label}}}"] if label else []),
            r"\vspace{4pt}",
            *body,
            rf"\end{{{kind}}}",
            *(f"% Not complete: {printable(problem)}" for problem in problems),
            *([rf"\paragraph{{Table~\ref{{tab:{label}}}}} {text}"] if sources else []),
        ]
    )


def tabular(columns: str, head: list[str], lines: list[list[str]]) -> list[str]:
    """Return a tabular with the rows of a head, and lines of cells in LaTeX."""
    return [FIT, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, r"\midrule",
            *map(_row, lines), r"\bottomrule", r"\end{tabular}}"]  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


# ------------------------------------------------------------------------ the tables of protocols


def _with_columns(table: Table, names: Sequence[str]) -> Table:
    """Return the table with exactly these columns; cells of columns that it lacks are empty."""
    nothing = Cell(NOTHING_IN_A_PAPER)
    lines = []
    for line in table.lines:
        here = dict(zip(table.head[1:], line[1:], strict=True))
        lines.append([line[0], *(here.get(name, nothing) for name in names)])
    return Table("", ["", *names], lines, [])


def _of_blocks(group: list[Table], members: pd.DataFrame) -> str:
    """Return base-to-new or few-shot tables: a block for the average, if any, and each data set."""
    first = group[0].first
    protocol = protocol_of(first)
    by_shots = protocol.across == "shots"
    shots = sorted(members["shots"].unique())
    names = [shots_text(number) for number in shots] if by_shots else [*protocol.columns.values()]
    head = ["Shots", *map(str, shots)] if by_shots else ["", *names]
    blocks = []
    group = sorted(group, key=lambda table: not table.of_averages)
    for number, table in enumerate(group):
        of = table.first
        what = average_name(of).capitalize() if of.average else dataset_title(of.dataset)
        block = [rf"{escape(f'({chr(97 + number)}) {what}')}\\[2pt]"]
        lines = marked(_with_columns(table, names))
        blocks.append(block + tabular("l" + "c" * len(names), [_row(head)], lines))
    caption, sources = _caption(group)
    if group[0].of_averages and not by_shots:
        caption.append(AVERAGE_H)
    caption += apart_note(each_row(members[members["average"]]))
    what, label = protocol.title, protocol.name
    if not by_shots:
        what, label = f"{what}, {shots_text(first.shots)}", f"{label}-{first.shots}"
    text = escape(" ".join([f"{what}: accuracy (%).", *caption]))
    beside = (2 if by_shots else 3) - has_spread(group)
    width = max(_width(_with_columns(table, names)) for table in group)
    while beside in ROOM and width > ROOM[beside]:
        beside -= 1
    sheet, *others = _sheets(blocks, beside, len(text) // 100)
    found = [floating("table*", text, label, sheet, _problems(members), sources)]
    found += [floating("table*", f"{what} (continued).", "", body, []) for body in others]
    return "\n\n".join(found)


def _width(table: Table) -> int:
    """Return the characters of the widest line, with two for each column."""
    texts = [table.head, *([cell.text for cell in line] for line in table.lines)]
    plain = [[text.replace(PUBLISHED, "+").replace(INCOMPLETE, "*") for text in of] for of in texts]
    return sum(2 + max(map(len, column)) for column in zip(*plain, strict=True))


def _sheets(blocks: list[list[str]], beside: int, caption: int) -> list[list[str]]:
    """Arrange blocks, `beside` in a row, into the bodies of floats that each fit on a page.

    `caption` is the number of lines of the caption.
    """
    lines = max(map(len, blocks))
    bands = min(-(-len(blocks) // beside), max(1, (PAGE - 2 * caption) // lines))
    size = next((size for most, size in SIZES if bands * lines <= most), SMALLEST)
    bodies = []
    for start in range(0, len(blocks), bands * beside):
        body = [rf"{size}\setlength{{\tabcolsep}}{{4pt}}"]
        for number, block in enumerate(blocks[start : start + bands * beside]):
            if number:
                body.append(r"\hfill" if number % beside else r"\\[6pt]")
            body.append(rf"\begin{{minipage}}[t]{{{0.96 / beside:.2f}\textwidth}}\centering")
            body += [*block, r"\end{minipage}"]
        bodies.append(body)
    return bodies


def _of_targets(table: Table, members: pd.DataFrame) -> str:
    """Return the table of a transfer protocol: columns for the source, targets and average."""
    first, names = table.first, table.head[1:]
    shots = shots_text(first.shots)
    turned = len(names) > 6
    heads = [rf"\rotatebox{{90}}{{{escape(name)}}}" if turned else escape(name) for name in names]
    groups = [rf"\multicolumn{{{len(names)}}}{{c}}{{Target}}"]
    rules = rf"\cmidrule(l){{2-{1 + len(names)}}}"
    if first.dataset == first.source:
        groups = [r"\multicolumn{1}{c}{Source}"]
        groups.append(rf"\multicolumn{{{len(names) - 1}}}{{c}}{{Target}}")
        rules = rf"\cmidrule(lr){{2-2}}\cmidrule(l){{3-{1 + len(names)}}}"
    head = [_row(["", *groups]), rules, _row(["", *heads])]
    wide = turned and has_spread([table])
    body = [r"\scriptsize\setlength{\tabcolsep}{2pt}" if wide else SMALL]
    body += tabular("l" + "c" * len(names), head, marked(table))
    protocol = protocol_of(first)
    what = f"{protocol.title} from {dataset_title(first.source)}, {shots}"
    sentences, sources = _caption([table])
    sentences += apart_note(each_row(members[members["average"]]))
    caption = escape(" ".join([f"{what}: accuracy (%).", *sentences]))
    label = f"{protocol.name}-{first.source}-{first.shots}"
    return floating("table*", caption, label, body, _problems(members), sources)


def _caption(group: list[Table]) -> tuple[list[str], list[str]]:
    """Return the sentences that follow the title of a float, and those that do not fit there."""
    seeds = max(table.seeds for table in group)
    means = "Means"
    if has_spread(group):
        spread = "95% intervals" if group[0].first.interval else "standard deviations"
        means = f"Means ± {spread}"
    found = [f"{means} over {seeds} seeds." if seeds > 1 else "One seed."]
    found.append("Best in bold, second best underlined.")
    cited = set().union(*(table.cited for table in group))
    marks = set().union(*(table.marks for table in group))
    sources = published.caption(protocol_of(group[0].first), cited, marks)
    sources = [sentence.replace("Published", PUBLISHED + " Published") for sentence in sources]
    fit = len(" ".join(sources)) <= LONG
    return (found + sources, []) if fit else (found, sources)


def has_spread(group: Sequence[Table]) -> bool:
    """Return True if any mean of these tables has a spread."""
    return any(cell.spread is not None for table in group for line in table.lines for cell in line)


def _problems(members: pd.DataFrame) -> list[str]:
    return [
        problem
        if row.average
        else f"{row.name}, {row.dataset}, {shots_text(row.shots)}, {row.column}: {problem}"
        for row in each_row(members)
        for problem in row.problems
    ]
