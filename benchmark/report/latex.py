"""LaTeX tables for a paper, by pandas. The best number is bold.

They need the package booktabs, and longtable where one does not fit on a page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import pandas as pd

from trainers.prompting.errors import printable

from .names import method_name
from .table import Table

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
MINUS = re.compile(r"(?<![\w-])-(?=\d|ln )|(?<= )-(?= )")
QUOTED = re.compile(r"(?<!\w)'([^']*)'(?!\w)")
PAGE = 40  # lines of a table that surely fit on a page, of some 50


def as_document(groups: Iterable[tuple[str, list[str], Sequence[Table]]]) -> str:
    """Return the LaTeX of tables, one for each group, of which title and caption are given.

    Labels are numbered where they are equal.
    """
    counts: Counter[str] = Counter()
    texts = [r"% \usepackage{booktabs}"]
    for title, caption, group in groups:
        label = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        counts[label] += 1
        number = f"-{counts[label]}" if counts[label] > 1 else ""
        text = escape(" ".join([f"{title}.", *caption]))
        problems = dict.fromkeys(chain.from_iterable(map(_problems, group)))
        texts.append("\n".join([as_float(group, text, f"tab:{label}{number}"), *problems]))
    return "\n\n".join(texts)


def _problems(table: Table) -> list[str]:
    """Return comments on what a table lacks."""
    place = f"{table.place}: " if table.place and not table.of_averages else ""
    return [f"% Not complete: {printable(place + problem)}" for problem in table.problems]


def as_float(group: Sequence[Table], caption: str, label: str) -> str:
    """Return a float of tables one below the other; where there are several, each has its place."""
    several = len(group) > 1
    places = [escape(table.place) if several else "" for table in group]
    cells = pd.concat(map(_cells, group), keys=places).fillna("")
    of_page: dict = {"environment": "table*", "position": "t", "position_float": "centering"}
    text = cells.style.hide(axis="index", level=1 if several else None).to_latex(
        hrules=True, clines="skip-last;data" if several else None, multirow_align="naive",
        column_format="l" * (1 + several) + "r" * (cells.shape[1] - 1), caption=caption,
        label=label, **(of_page if len(cells) <= PAGE else {"environment": "longtable"}),
    )  # fmt: skip
    rule = rf"\cline{{1-{1 + cells.shape[1]}}}"  # after each place, and so after the last
    return text.rstrip().replace(f"{rule}\n\\bottomrule", r"\bottomrule").replace(rule, r"\midrule")


def _cells(table: Table) -> pd.DataFrame:
    """Return the cells of a table in LaTeX."""
    lines = table.texts(lambda cell: escape(cell.text), r"\textbf{{{}}}")
    return pd.DataFrame(lines, columns=[*map(escape, table.head)])


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    text = QUOTED.sub(r"`\1'", printable(method_name(text)))
    return MINUS.sub("\0", text).translate(ESCAPED).replace("\0", "$-$")
