"""Reads tables of images and their labels, CSV or TSV, and writes tables for spreadsheets.

The first line is `path,label` or `path,label,group`; paths are relative to the table. In tables of
images with several labels, it is `path,labels`, and `;` is between them (`read_tagged`).
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, printable
from ..storage.files import write_whole
from .class_folders import RESERVED, name_key

TAGS, SPLIT, MAYBE = "labels", ";", "?"  # the column of several labels, and marks in it
SEPARATORS = "[,|；，、]"  # between labels, where SPLIT belongs
MARKS = "?!.-~ "  # around a label, which make it another one
MARK = "\ufeff"  # with which spreadsheets know UTF-8
MOST = 5  # mistakes that an error names


class Row(NamedTuple):
    """A line of a table: path of the image, label and group (empty if it has none), number.

    The label of an image with several is its whole cell.
    """

    path: str
    label: str
    group: str
    line: int


def read_images(table: Path) -> list[Row]:
    """Return the rows of a table of images."""
    rows, flaws = _read_rows(table)
    _refuse(table, [*flaws, *_flaws(rows)])
    return rows


def has_several(table: Path) -> bool:
    """Return True for a table with a column `labels`."""
    try:
        head = table.read_bytes().decode("utf-8-sig").lstrip().partition("\n")[0]
    except (OSError, ValueError):
        return False
    return TAGS in {cell.strip(' "').lower() for cell in re.split("[\t;,\r]", head)}


def read_tagged(table: Path) -> list[tuple[Row, set[str], set[str]]]:
    """Return the rows of a table of images with several labels: of each, the present and unknown.

    A label after `?` is unknown, and those that a row does not name are absent.
    """
    rows, flaws = _read_rows(table, TAGS)
    split = [(row, [x for x in map(str.strip, row.label.split(SPLIT)) if x]) for row in rows]
    _refuse(table, [*flaws, *_places(rows), *_tag_flaws(split)])
    found = []
    for row, words in split:
        unknown = {_name(word) for word in words if word.startswith(MAYBE)}
        found.append((row, {*map(_name, words)} - unknown, unknown))
    return found


def _name(word: str) -> str:
    return word.removeprefix(MAYBE).strip()


def _tag_flaws(split: Sequence[tuple[Row, list[str]]]) -> Iterator[tuple[int, str]]:
    """Yield line and mistake of labels that are wrong by themselves, or beside others."""
    like: dict[str, tuple[str, int]] = {}
    known = {_name(word) for _, words in split for word in words}
    for row, words in split:
        names = [_name(word) for word in words]
        for name in names:
            written, line = like.setdefault(name_key(name), (name, row.line))
            if written != name:
                yield row.line, f"'{name}' is written '{written}' on line {line}"
            if not name:
                yield row.line, f"'{MAYBE}' has no name after it"
            if name in RESERVED:
                yield row.line, f"'{name}' is an answer of predict: call the class otherwise"
            parts = [part.strip() for part in re.split(SEPARATORS, name)]
            if len(parts) > 1 and known.intersection(parts):
                yield row.line, f"'{name}' is several labels: write '{SPLIT}' between them"
            bare = name.strip(MARKS)
            if bare != name and bare in known:
                yield row.line, f"'{name}' is not '{bare}': a '{MAYBE}' goes before an unknown one"
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            yield row.line, f"'{twice[0]}' stands twice in a cell"


def write_table(table: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file for spreadsheets, with a line for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(printable, cells) for cells in (head, *rows))
    write_whole(table, MARK + text.getvalue())


def _read_rows(table: Path, label: str = "label") -> tuple[list[Row], list[tuple[int, str]]]:
    """Return the rows of a table, and line and mistake of lines that are none."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(
            f"The table '{table}' cannot be read ({why}): save it as CSV, or give a folder"
        ) from None
    rows: list[Row] = []
    flaws: list[tuple[int, str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not names:
                names = [cell.lower() for cell in cells]
                columns = ["path", label, "group"]
                if sorted(names) not in [sorted(columns[:n]) for n in (2, 3)] or (
                    label == TAGS and reader.dialect.delimiter == SPLIT
                ):
                    several = "" if label == TAGS else f"; {TAGS} where an image has several"
                    raise UserError(
                        f"The table '{table}' begins with '{printable(','.join(cells)):.60}': let "
                        f"its first line be path,{label} or path,{label},group{several}, with "
                        "commas or tabs"
                    )
            elif len(cells) != len(names):
                flaws.append((reader.line_num, f"{len(cells)} cells, not {len(names)}"))
            else:
                by = dict(zip(names, cells, strict=True))
                path = os.path.abspath(os.path.join(table.parent, by["path"] or "."))
                rows.append(Row(path, by[label], by.get("group", ""), reader.line_num))
    except csv.Error as error:
        flaws.append((reader.line_num, f"no CSV from here on ({error})"))
    if not rows and not flaws:
        flaws.append((reader.line_num, "no line of an image follows"))
    return rows, flaws


def _refuse(table: Path, flaws: list[tuple[int, str]]) -> None:
    """Raise a UserError that names the first mistakes, if there are some."""
    if flaws:
        texts = [f"line {line}: {what}" for line, what in sorted(flaws)[:MOST]]
        more = [f"and {len(flaws) - MOST:,} more"] * (len(flaws) > MOST)
        raise UserError(
            f"The table '{table}' has mistakes ({'; '.join(texts + more)}): correct these lines, "
            "or remove them"
        )


def _delimiter(text: str) -> str:
    head = text.lstrip().partition("\n")[0]
    return max("\t;,", key=head.count)


def _places(rows: Sequence[Row], rule: str = "") -> Iterator[tuple[int, str]]:
    """Yield line and mistake of rows without an image, or with that of another row."""
    paths: dict[str, Row] = {}
    for row in rows:
        shown = printable(row.path)
        if not os.path.isfile(row.path):
            yield row.line, f"there is no image '{shown}'"
        other = paths.setdefault(row.path, row)
        if other is not row and other.label == row.label:
            yield row.line, f"'{shown}' stands on line {other.line}, too"
        elif other is not row:
            why = f"'{shown}' is '{row.label}', but on line {other.line} '{other.label}'"
            yield row.line, f"{why}{rule}"


def _flaws(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Yield line and mistake of rows that are wrong by themselves, or beside others."""
    labels: dict[str, Row] = {}
    yield from _places(rows, "; an image has one label")
    for row in rows:
        if not row.label:
            yield row.line, f"'{printable(row.path)}' has no label"
        if row.label:
            like = labels.setdefault(name_key(row.label), row)
            if like.label != row.label:
                yield row.line, f"'{row.label}' is written '{like.label}' on line {like.line}"
            if row.label in RESERVED:
                yield row.line, f"'{row.label}' is an answer of predict: call the class otherwise"
            if row.label == row.group:
                yield row.line, f"the group is the class, '{row.label}': a class has several groups"
    known = {row.label for row in rows}
    for row in rows:
        parts = [part.strip() for part in re.split("[;|]", row.label)]
        if len(parts) > 1 and known.intersection(parts):
            yield row.line, f"'{row.label}' is several labels; an image has one"
