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
    "quote": ([f'{A},"ant,'], "line .: no CSV from here on .unexpected end"),
    "empty": ([], "line 1: no line of an image follows"),
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
    for head in ("x/a.png,ant", "label", "path,tags"):
        with pytest.raises(UserError, match="; labels where an image has several"):
            load(table(f"{A},ant", head=head))
    table().write_bytes(b"path,label\n\xff\xfe,ant\n")
    with pytest.raises(UserError, match=re.escape("cannot be read (it is not UTF-8): save it")):
        load(tmp_path / "labels.csv")


# ---- several labels an image


def cell(*labels):
    return f'"{"; ".join(labels)}"'


SEVERAL = [f"x/ant/ant {i:02}.png,{cell(*('ant', 'leaf')[: 1 + i % 2])}" for i in range(4)]
SEVERAL += [f"x/bee/bee {i:02}.png,{['bee', 'bee;leaf', '', '?leaf;bee'][i % 4]}" for i in range(6)]


def test_a_table_of_several_labels_is_a_data_set(table, capsys):
    data = load(table(*SEVERAL, head="path,labels"))
    assert data.several and data.classnames == ["ant", "bee", "leaf"]
    by_name = {x.impath[-10:]: x for x in data.train_x + data.val + data.test}
    assert by_name["ant 01.png"].label == (1, 0, 1) and by_name["bee 02.png"].label == (0, 0, 0)
    assert by_name["bee 03.png"].label == (0, 1, -1) and len(by_name) == 10
    for items in (data.train_x, data.test):  # each class is in either
        assert all(any(item.label[k] == 1 for item in items) for k in range(3))
    said = capsys.readouterr().out
    assert "rarest classes first: 6 images for training" in said and "one label" not in said
    one = [line.partition(",")[0] for line in SEVERAL]
    load(table(*(f"{path},{path[2:5]}" for path in one), head="path,labels"))
    assert "has one label: call the column `label`" in capsys.readouterr().out


def test_groups_of_several_labels_stay_whole(table):
    lines = [f"{line},g{i // 2}" for i, line in enumerate(SEVERAL)]
    data = load(table(*lines, head="path,labels,group"))
    parts = [{item.group for item in part} for part in (data.train_x, data.val, data.test)]
    assert sum(map(len, parts)) == 5 and data.several


@pytest.mark.parametrize("lines, wrong", [
    ([f"{A},ant;bee;ant", f"{B},bee"], "line 2: 'ant' stands twice in a cell"),
    ([f"{A},ant;?ant", f"{B},bee"], "line 2: 'ant' stands twice in a cell"),
    ([f"{A},ant;bee", f"{A},bee"], "line 3: '.*' is 'bee', but on line 2 'ant;bee'"),
    ([f'{A},"ant, bee"', f"{B},bee"], "line 2: 'ant, bee' is several labels: write ';'"),
    ([f"{A},Ant", f"{B},ant"], "line 3: 'ant' is written 'Ant' on line 2"),
    ([f"{A},ant；bee", f"{B},bee"], "line 2: 'ant；bee' is several labels: write ';'"),
    ([f"{A},ant?", f"{B},ant"], "line 2: 'ant.' is not 'ant': a '.' goes before an unknown one"),
    ([f"{A},?", f"{B},ant"], "line 2: '.' has no name after it"),
    ([f"{A},several;ant"], "line 2: 'several' is an answer of predict"),
    (["none.png,ant"], "line 2: there is no image"),
    ([], "no line of an image follows"),
    ([f"{A},ant;bee", f"{B},bee"], "'ant' is in all|'bee' is in all|too few images for training"),
])  # fmt: skip
def test_mistakes_of_several_labels(table, lines, wrong):
    with pytest.raises(UserError, match=wrong):
        load(table(*lines, head="path,labels"))


@pytest.mark.parametrize("head", ["path;labels", "path,labels,label", "labels"])
def test_heads_of_several_labels(table, head):
    with pytest.raises(UserError, match="let its first line be path,labels or path,labels,group"):
        load(table(A, head=head))
