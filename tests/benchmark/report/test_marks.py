"""Marks of methods that need more than labelled images, in tables and plots."""

import pytest
from outcomes import (
    COLUMNS,
    answer,
    comparisons,
    few_shot,
    metrics,
    numbers,
    only_table,
    outcome,
    rows,
)

from benchmark.protocols import FEW_SHOT
from benchmark.records import flaw
from benchmark.report import plots, published
from benchmark.report.frame import frame
from benchmark.report.render import as_csv, as_text, record, render
from benchmark.report.tables import tables as tables_of

MARKED, PLAIN = "MMRL (llm, per data set)", "CoOp"
MEANING = "llm: words or sentences of a language model; per data set: settings chosen for each"


@pytest.fixture
def outcomes(tmp_path):
    found = []
    for trainer, seed, part in (("CoOp", 1, "base"), ("CoOp", 1, "new"), ("MMRL", 1, "base"),
                                ("MMRL", 1, "new")):  # fmt: skip
        # records of runs on new classes may lack the key
        more = {"beyond": ["per data set", "llm"]} if (trainer, part) == ("MMRL", "base") else {}
        for dataset in ("emoji_food", "emoji_night"):
            one = outcome(trainer, seed, part, 50.0, dataset, num_classes=2, **more)
            found.append(answer(one, tmp_path / f"{trainer}{part}{dataset}", COLUMNS))
    return found


def test_marks_are_in_tables_of_every_kind(outcomes):
    found, tidy = rows(outcomes), frame(outcomes)
    views = [metrics(tidy), comparisons(tidy, "CoOp"), comparisons(tidy, "MMRL")]
    tables = [table for view in views[:2] for of in view.tables().values() for table in of]
    (of_protocol,) = tables_of(found).values()
    tables += of_protocol
    for table in tables:
        names = [line[0].text for line in table.lines]
        assert MARKED in names and set(names) <= {MARKED, PLAIN}
        assert MEANING in as_text(table)
    for table in next(iter(views[2].tables().values())):
        assert f"{MARKED} minus each other" in table.title and MEANING in as_text(table)
    latex = render(found, "latex")
    assert f"{MARKED} &" in latex and latex.count(MEANING) == latex.count(r"\begin{table")
    machine = as_csv([record(list(line.values())) for line in numbers(outcomes)])
    assert machine.count("llm; per data set") == 3 and "MMRL (" not in machine
    assert "Beyond" not in as_text(only_table(outcomes[:4:2]))


def test_marks_are_in_the_legends_of_plots(outcomes):
    (figure, _), *_ = plots.figures(rows(outcomes)).values()
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(shown) == [PLAIN, MARKED]
    alone = few_shot("MMRL", 1, (50,), beyond=["llm"])
    (axis,) = plots.figures(rows(alone))["few_shot"][0].axes
    assert axis.get_title() == "MMRL (llm): DTD"


@pytest.mark.parametrize(
    "trainer, mark, meaning",
    [
        ("TPT", "one test image", "adapts to each test image by itself"),
        ("TDA", "test stream", "adapts to the test images before each one"),
        ("TransCLIP", "whole test set", "classifies all test images together"),
        ("Theirs", "test images", "adapts to the images that it is tested on"),
    ],
)
def test_an_older_mark_is_shown_as_that_of_its_method(trainer, mark, meaning):
    table = only_table(few_shot(trainer, 1, (50,), beyond=["test images", "llm"]))
    assert f"{trainer} (llm, {mark})" in as_text(table) and f"{mark}: {meaning}." in as_text(table)
    line = {"method": trainer, "dataset": "dtd", "accuracy": "50", "kind": "test images+llm",
            "source": "a paper"}  # fmt: skip
    assert published._read(line, FEW_SHOT)[1].kinds == [mark, "llm"]


@pytest.mark.parametrize("marks", [["magic"], "llm", 7, [["llm"]]])
def test_a_record_with_unknown_marks_is_refused(marks):
    why = flaw({"accuracy": 50.0, "beyond": marks})
    kinds = (
        "llm, sentences, unlabelled, validation, per data set, teacher, equal teacher, one test "
        "image, test stream, whole test set, test images"
    )
    assert why.startswith("holds beyond") and why.endswith(f"a list of {kinds}")
