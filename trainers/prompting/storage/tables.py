"""Reads a table of images and their labels, CSV or TSV.

The first line is `path,label` or `path,label,group`; paths are relative to the table.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, printable
from .files import read_file

COLUMNS = ("path", "label", "group")
LONGEST = 4_096  # letters of a cell
MOST = 5  # mistakes that an error names


class Row(NamedTuple):
    """A line of a table: path of the image, label and group (empty if it has none), number."""

    path: str
    label: str
    group: str
    line: int


def read_images(table: Path, unlabelled: bool = False, moved: bool = False) -> list[Row]:
    """Return the rows of a table of images.

    Args:
        table: the file.
        unlabelled: accept rows without a label.
        moved: leave out those without a label whose image is gone.

    Raises:
        UserError: the table cannot be read, or has mistakes: it names the lines of the first ones.
    """
    try:
        text = read_file(table).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"The table '{table}' cannot be read ({why}): save it as CSV") from None
    rows: list[Row] = []
    flaws: list[tuple[int, str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            cells = [re.sub("^'(?=[-=+@])", "", cell.strip()) for cell in cells]  # see `csv_text`
            if not any(cells):
                continue
            if not names:
                names = [cell.lower() for cell in cells]
                if {*names[:2]} != {*COLUMNS[:2]} or names[2:] not in ([], ["group"]):
                    raise UserError(
                        f"The table '{table}' begins with '{printable(','.join(cells)):.60}': let "
                        "its first line be path,label or path,label,group"
                    )
            elif len(cells) != len(names):
                flaws.append((reader.line_num, f"{len(cells)} cells, not {len(names)}"))
            elif long := [cell for cell in cells if len(cell) > LONGEST or printable(cell) != cell]:
                what = f"a cell of {len(long[0]):,} letters, '{printable(long[0]):.20}'"
                flaws.append((reader.line_num, f"{what}: at most {LONGEST:,} on a line fit"))
            else:
                by_name = dict(zip(names, cells, strict=True))
                path = os.path.normpath(os.path.join(table.parent, by_name["path"] or "."))
                if moved and not by_name["label"] and not os.path.exists(path):
                    continue
                rows.append(Row(path, by_name["label"], by_name.get("group", ""), reader.line_num))
    except csv.Error as error:
        flaws.append((reader.line_num, f"no CSV from here on ({error})"))
    flaws += _flaws(rows, unlabelled)
    if flaws:
        texts = [f"line {line}: {what}" for line, what in sorted(flaws)[:MOST]]
        more = [f"and {len(flaws) - MOST:,} more"] * (len(flaws) > MOST)
        raise UserError(
            f"The table '{table}' has mistakes ({'; '.join(texts + more)}): correct these lines, "
            "or remove them"
        )
    if not rows and not moved:
        raise UserError(f"The table '{table}' has no rows: write path,label and a line an image")
    return rows


def _delimiter(text: str) -> str:
    head = text.lstrip().partition("\n")[0]
    return max("\t;,", key=head[: 2 * LONGEST].count)


def _flaws(rows: Sequence[Row], unlabelled: bool) -> Iterator[tuple[int, str]]:
    """Yield line and mistake of rows that are wrong by themselves, or beside others."""
    paths: dict[str, Row] = {}
    labels: dict[str, Row] = {}
    for row in rows:
        shown = printable(row.path)
        if not os.path.isfile(row.path):
            yield row.line, f"there is no image '{shown}'"
        other = paths.setdefault(row.path, row)
        if other is not row and other.label == row.label:
            yield row.line, f"'{shown}' stands on line {other.line}, too"
        elif other is not row:
            why = f"'{shown}' is '{row.label}', but on line {other.line} '{other.label}'"
            yield row.line, f"{why}; an image has one label"
        if not row.label and not unlabelled:
            yield row.line, f"'{shown}' has no label"
        if row.label:
            like = labels.setdefault("".join(row.label.replace("_", " ").split()).casefold(), row)
            if like.label != row.label:
                yield row.line, f"'{row.label}' is written '{like.label}' on line {like.line}"
    known = {row.label for row in rows}
    for row in rows:
        parts = [part.strip() for part in re.split("[;|]", row.label)]
        if len(parts) > 1 and known.intersection(parts):
            yield row.line, f"'{row.label}' is several labels; an image has one"
