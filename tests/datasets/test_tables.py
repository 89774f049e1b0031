"""Tables of images and labels: read by the data set of a user's own images; bad lines are named."""

import re

import pytest
from own_images import counts, fill, load

from trainers.prompting import UserError
from trainers.prompting.images.tables import read_images


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a table of lines below its head, beside some images."""
    fill(tmp_path / "x", ant=4, bee=6)

    def write(*lines, head="path,label,group", name="labels.csv"):
        path = tmp_path / name
        path.write_bytes("\n".join([head, *lines, ""]).encode())
        return path

    return write


def test_a_table_is_a_data_set_whose_groups_stay_whole(table, tmp_path):
    lines = [f"x/ant/ant {i:02}.png,an ant,g{i // 2}" for i in range(4)]
    lines += [f"x/bee/bee {i:02}.png,bee," for i in range(6)]
    data = load(table(*lines))
    assert data.classnames == ["an ant", "bee"] and sum(counts(data)) == 10
    parts = [{item.group for item in part} - {""} for part in (data.train_x, data.val, data.test)]
    assert sum(map(len, parts)) == 2  # each in one part
    semicolons = table(
        *(x.replace(",", "\t") for x in lines), head="Path\tLabel\tgroup", name="t.tsv"
    )
    assert [row[:3] for row in read_images(semicolons)] == [
        row[:3] for row in read_images(table(*lines))
    ]
    folder = tmp_path / "moved"
    (tmp_path / "x").rename(tmp_path / "y")
    folder.mkdir()
    (tmp_path / "y").rename(folder / "x")
    assert load((tmp_path / "labels.csv").rename(folder / "l.csv")).fingerprint == data.fingerprint


A, B = "x/ant/ant 00.png", "x/bee/bee 01.png"
WRONG = {
    "no image": ([f"{A},ant,", "x/none.png,ant,", "../x.png,ant,"], "line 3: there is no image"),
    "twice": ([f"{A},ant,", f"x/../{A},ant,"], "line 3: '.*ant 00.png' stands on line 2, too"),
    "two labels": ([f"{A},ant,", f"{A},bee,"], "is 'bee', but on line 2 'ant'; an image has one"),
    "two in a cell": ([f"{A},ant,", f"{B},bee|ant,"], "line 3: 'bee|ant' is several labels"),
    "case": ([f"{A},Fire ant,", f"{B},fire_Ant,"], "'fire_Ant' is written 'Fire ant' on line 2"),
    "spaces": ([f"{A},fire ant,", f"{B},fireant,"], "'fireant' is written 'fire ant' on line 2"),
    "unlabelled": ([f"{A},,"], "line 2: '.*ant 00.png' has no label"),
    "cells": ([f"{A},ant"], "line 2: 2 cells, not 3"),
    "long line": ([f"{A},{'a' * 10_000_000},"], "line 2: no CSV from here on .field larger than"),
    "long cell": ([f"{A},{'a' * 5000},"], "line 2: a cell of 5,000 letters"),
    "quote": ([f'{A},"ant,'], "line .: no CSV from here on .unexpected end"),
    "empty": ([], "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_named(table, case):
    lines, why = WRONG[case]
    with pytest.raises(UserError, match=why.replace("|", r"\|")) as caught:
        load(table(*lines))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_every_mistake_counts_and_heads_are_needed(table, tmp_path):
    with pytest.raises(UserError, match=r"line 2: .*; line 6: .*; and 4 more\): correct these"):
        load(table(*(f"x/{i}.png,ant," for i in range(9))))
    for head in ("x/a.png,ant", "label", "path,label,colour", "a" * 10_000_000):
        with pytest.raises(UserError, match="let its first line be path,label|no CSV from here on"):
            load(table(f"{A},ant", head=head))
    table().write_bytes(b"path,label\n\xff\xfe,ant\n")
    with pytest.raises(UserError, match=re.escape("cannot be read (it is not UTF-8): save it")):
        load(tmp_path / "labels.csv")
