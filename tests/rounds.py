"""Rounds of labels by hand: what `advise` asks for is filled in, as a person does it."""

import csv
import os
import re

from paths import ROOT


def documented():
    """Return the command of docs/advise.md that asks for labels, without its program."""
    page = (ROOT / "docs/advise.md").read_text("utf-8")
    (words,) = re.findall(r"^python -m benchmark (advise my_images .*--next \d+)$", page, re.M)
    return words.split()


def fill_in(table):
    """Write labels into the empty cells of a table; a name such as `heart 3.webp` begins with it.

    Returns the number of labels.
    """
    with open(table, encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "label"] and not any(label for _, label in rows)
    with open(table, "w", encoding="utf-8", newline="") as file:
        names = [os.path.basename(path).rpartition(" ")[0] for path, _ in rows]
        pairs = zip(rows, names, strict=True)
        csv.writer(file).writerows([head, *([path, name] for (path, _), name in pairs)])
    return len(rows)
