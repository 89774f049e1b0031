"""Tables that go into a paper as they are: they need the packages booktabs and graphicx.

The best number of a column is bold, the second best underlined. Base-to-new is one table of blocks
(the average, then each data set) as in CoCoOp's Table 1, and so is few-shot; each transfer protocol
is one table. What else there is (ablations, views) becomes a plain table.
"""

from collections.abc import Sequence

from trainers.prompting.errors import printable

from ..protocols.base import shots_text
from . import published
from .averages import Average, averages
from .names import dataset_name, method_name
from .rows import Cell, Row, methods
from .tables import AVERAGE_H, Place, Table, grouped, not_run, tables

ESCAPED = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
)
PUBLISHED = r"$^\dagger$"  # behind the name of a method whose numbers are not ours
INCOMPLETE = r"$^*$"  # behind a mean that lacks seeds or data sets
# Lines of a block count its rules. So many fill a page, or fit into one in larger letters.
PAGE = 88
SIZES = ((60, r"\small"), (70, r"\footnotesize"))
SMALLEST = r"\scriptsize"
PACKAGES = r"% \usepackage{booktabs,graphicx}"


def papers(listed: list[Row], all_published: bool) -> str:
    """The tables of these rows.

    Args:
        listed: the rows.
        all_published: published numbers of methods that were not run are lines, too.
    """
    found = [PACKAGES]
    for members in grouped(listed, lambda row: row.group):
        protocol = members[0].protocol
        if protocol.by_variant:
            group = [table for table in tables(members)[protocol] if not table.of_averages]
            found += [as_latex(table) for table in group]
        elif protocol.across == "dataset":
            found.append(_of_targets(members, all_published))
        else:
            found.append(_of_blocks(members, all_published))
    return "\n\n".join(found)


def as_latex(table: Table) -> str:
    """Any table, on its own; what is missing stands in comments below it."""
    lines = marked(table)
    head = [escape(name) for name in table.head]
    caption = escape(" ".join([f"{table.title}.", *table.caption]))
    body = tabular("l" + "r" * (len(head) - 1), [_row(head)], [[_row(line) for line in lines]])
    size = r"\small\setlength{\tabcolsep}{4pt}"  # an ablation has nine columns
    return floating("table", caption, "", [size, *body], table.problems)


def escape(text: str) -> str:
    return printable(text).translate(ESCAPED)


def marked(table: Table) -> list[list[str]]:
    """The cells in LaTeX, the best and the second best of each column marked."""
    best = [table.best(column) for column in range(len(table.head))]
    second = [table.best(column, 1) for column in range(len(table.head))]

    def mark(i: int, j: int, cell: Cell) -> str:
        text = escape(cell.text).replace(escape(INCOMPLETE), INCOMPLETE)
        text = text.replace(escape(PUBLISHED), PUBLISHED)
        if i in best[j]:
            return rf"\textbf{{{text}}}"
        return rf"\underline{{{text}}}" if i in second[j] else text

    return [[mark(i, j, cell) for j, cell in enumerate(line)] for i, line in enumerate(table.lines)]


def floating(
    kind: str, caption: str, label: str, body: Sequence[str], problems: Sequence[str]
) -> str:
    """A float around a body; what is missing stands in comments below it."""
    return "\n".join(
        [
            rf"\begin{{{kind}}}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            *([rf"\label{{tab:{label}}}"] if label else []),
            r"\vspace{4pt}",
            *body,
            rf"\end{{{kind}}}",
            *(f"% Not complete: {printable(problem)}" for problem in problems),
        ]
    )


def tabular(columns: str, head: list[str], groups: list[list[str]]) -> list[str]:
    """A tabular with a rule between the groups of its rows."""
    rows = [line for group in groups for line in (r"\midrule", *group)]
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, *rows, r"\bottomrule",
            r"\end{tabular}"]  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


# ------------------------------------------------------------------------ the tables of protocols


def _of_blocks(members: list[Row], all_published: bool) -> str:
    """Base-to-new and few-shot: a block for the average, if there is one, and each data set."""
    protocol = members[0].protocol
    of_average = averages(members)
    groups = [of_average] if of_average else []
    groups += grouped(members, lambda row: row.dataset)
    by_shots = protocol.across == "shots"
    shots = sorted({row.shots for row in members})
    names = list(map(str, shots)) if by_shots else list(protocol.columns.values())
    head = [_row(["Shots" * by_shots, *names])]
    blocks = []
    for number, group in enumerate(groups):
        places: list[Place] = [(group[0], column) for column in protocol.columns]
        if by_shots:
            of = [next((one for one in group if one.shots == k), None) for k in shots]
            places = [(one, "accuracy") for one in of]
        rows = [_row(line) for line in marked(_table(["", *names], group, places, all_published))]
        title = f"({chr(ord('a') + number)}) {_title(group[0])}"
        block = [rf"{escape(title)}\\[2pt]", *tabular("l" + "c" * len(names), head, [rows])]
        blocks.append(block)
    caption = _caption(members, of_average, all_published)
    if of_average and "h" in protocol.columns:
        caption.append(AVERAGE_H)
    what, label = protocol.title, protocol.name
    if not by_shots:
        what, label = f"{what}, {shots_text(members[0].shots)}", f"{label}-{members[0].shots}"
    text = _joined([f"{what}: accuracy (%).", *caption])
    first, *others = _sheets(blocks, 2 if by_shots else 3)
    found = [floating("table*", text, label, first, _problems(members, of_average))]
    same = r"\addtocounter{table}{-1}"
    found += [floating("table*", f"{what} (continued).", "", [same, *body], []) for body in others]
    return "\n\n".join(found)


def _sheets(blocks: list[list[str]], beside: int) -> list[list[str]]:
    """The bodies of as many floats as the blocks need, in letters that fill a page at most."""
    lines = max(map(len, blocks))
    bands = min(-(-len(blocks) // beside), max(1, PAGE // lines))
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


def _of_targets(members: list[Row], all_published: bool) -> str:
    """Transfer: the source, the targets and their average side by side."""
    protocol, source = members[0].protocol, members[0].source
    of_average = averages(members)
    datasets = list(dict.fromkeys(row.dataset for row in members))
    places: list[Place] = [
        (next(row for row in members if row.dataset == dataset), "accuracy") for dataset in datasets
    ]
    names = [dataset_name(dataset) for dataset in datasets]
    if of_average:
        places.append((of_average[0], "accuracy"))
        names.append("Average")
    table = _table(["", *names], [*members, *of_average], places, all_published)
    turned = len(names) > 6
    heads = [rf"\rotatebox{{90}}{{{escape(name)}}}" if turned else escape(name) for name in names]
    first = int(datasets[0] == source)
    groups = [r"\multicolumn{1}{c}{Source}"] * first
    groups.append(rf"\multicolumn{{{len(names) - first}}}{{c}}{{Target}}")
    rules = r"\cmidrule(lr){2-2}" * first + rf"\cmidrule(l){{{2 + first}-{1 + len(names)}}}"
    rows = [_row(line) for line in marked(table)]
    head = [_row(["", *groups]), rules, _row(["", *heads])]
    body = [r"\small\setlength{\tabcolsep}{4pt}"]
    body += tabular("l" + "c" * len(names), head, [rows])
    what = f"{protocol.title} from {dataset_name(source)}, {shots_text(members[0].shots)}"
    caption = _caption(members, of_average, all_published)
    caption = _joined([f"{what}: accuracy (%).", *caption])
    label = f"{protocol.name}-{source}-{members[0].shots}"
    return floating("table*", caption, label, body, _problems(members, of_average))


def _table(
    head: list[str], group: list[Row | Average], places: list[Place], all_published: bool
) -> Table:
    """A line for each method, a column for each place, of which another method may be named."""
    lines = []
    for method in _methods(group):
        mine = {(of.dataset, of.shots): of for of in group if of.method == method}
        found: list[Place] = [
            (mine.get((other.dataset, other.shots)) if other else None, column)
            for other, column in places
        ]
        lines.append([Cell(method_name(method)), *(_number(*place) for place in found)])
        if beside := [of for of, _ in found if of and published.published(of)]:
            name = Cell(method_name(beside[0].trainer) + PUBLISHED)
            lines.append([name, *(_theirs(*place) for place in found)])
    if all_published:
        lines += _not_run(group, places)
    return Table("", head, lines, [])


def _methods(group: list[Row | Average]) -> list[str]:
    found = [of for of in group if isinstance(of, Row)]
    return methods(found) if found else list(dict.fromkeys(of.method for of in group))


def _number(of: Row | Average | None, column: str) -> Cell:
    """A mean without its deviation, as in the tables of papers."""
    value = of.means.get(column) if isinstance(of, Average) else of and of.mean(column)
    if value is None:
        return Cell("--")
    whole = of.datasets == of.of if isinstance(of, Average) else of.complete(column)
    return Cell(f"{value:.2f}", value) if whole else Cell(f"{value:.2f}{INCOMPLETE}")


def _theirs(of: Row | Average | None, column: str) -> Cell:
    """The published number; one that is a misprint does not compete."""
    theirs = published.published(of) if of else None
    if theirs is None:
        return Cell("--")
    text = f"{theirs.values[column]:.2f}"
    return Cell(f"{text} (misprint)") if published.misprint(of) else Cell(text, float(text))


def _not_run(group: list[Row | Average], places: list[Place]) -> list[list[Cell]]:
    """A line for each published method that was not run."""
    return [
        [
            Cell(method_name(trainer) + PUBLISHED),
            *(Cell("--") if value is None else Cell(f"{value:.2f}", value) for value in numbers),
        ]
        for trainer, numbers in not_run(group, places).items()
    ]


def _title(of: Row | Average) -> str:
    return dataset_name(of.dataset) if isinstance(of, Row) else str(of).capitalize()


def _caption(members: list[Row], of_average: list[Average], all_published: bool) -> list[str]:
    """Sentences below the title of a table."""
    seeds = max(row.count for row in members)
    found = [f"Means over {seeds} seeds." if seeds > 1 else "One seed."]
    found.append("Best in bold, second best underlined.")
    every = [*members, *of_average]
    beside = {of.trainer for of in every if published.published(of)}
    if all_published and any(of.comparable for of in every):
        beside |= set(published.trainers(members[0].protocol))
    sources = published.caption(members[0].protocol, beside)
    return found + [sentence.replace("Published", PUBLISHED + " Published") for sentence in sources]


def _joined(sentences: list[str]) -> str:
    return escape(" ".join(sentences)).replace(escape(PUBLISHED), PUBLISHED)


def _problems(members: list[Row], of_average: list[Average]) -> list[str]:
    found = [
        f"{row.name}, {row.dataset}, {shots_text(row.shots)}, {column}: {problem}"
        for row in members
        for column, problems in row.problems.items()
        for problem in problems
    ]
    return found + [problem for average in of_average for problem in average.problems]
