"""Tables as text, markdown, LaTeX, csv and JSON."""

import csv
import io
import json

import pytest
from outcomes import few_shot, only_table, outcome, page, rows, some_outcomes, transfer

from benchmark.report.latex import as_latex
from benchmark.report.render import as_markdown, as_text, render
from benchmark.report.tables import Cell, Table


def test_wide_tables_are_folded_for_the_terminal():
    targets = dict.fromkeys([f"a_long_name_of_a_data_set_{i}" for i in range(9)], 50.0)
    table = only_table(transfer("CoOp", "imagenet", targets))
    text = as_text(table)
    assert max(map(len, text.splitlines())) <= 120
    assert all(text.count(name) == 1 for name in table.head[1:]) and text.count("CoOp") == 3


def test_every_format_holds_the_numbers_and_the_problems():
    listed = rows(some_outcomes())
    texts = {form: render(listed, form) for form in ("text", "markdown", "latex", "csv", "json")}
    texts["html"] = page(some_outcomes())
    for text in texts.values():
        assert "failed: no memory [seed 2]" in text and "40.0" in text
    assert "| ALIGN    |" in texts["markdown"]
    records = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [record["h_n"] for record in records] == ["1", "2"]
    assert float(records[1]["h_mean"]) == pytest.approx(48.0)
    assert json.loads(texts["json"])["rows"][0]["problems"][0] == (
        "base: failed: no memory [seed 2]"
    )


def test_csv_of_several_protocols_has_one_head():
    outcomes = some_outcomes() + few_shot("CoOp", 1, (48,))
    records = list(csv.DictReader(io.StringIO(render(rows(outcomes), "csv"))))
    assert [record["protocol"] for record in records] == ["few_shot", "base2new", "base2new"]
    assert records[0]["accuracy_mean"] == "48.0" and records[1]["accuracy_mean"] == ""


def test_the_best_of_a_column_is_bold():
    outcomes = few_shot("CoOp", 1, (50.001,), "emoji") + few_shot("ALIGN", 1, (50.002,), "emoji")
    outcomes += few_shot("VPT", 1, (40,), "emoji")
    table = only_table(outcomes)
    assert table.best(1) == {0, 2}  # equal as shown
    assert as_markdown(table).count("**50.00**") == 2
    assert as_latex(table).count(r"\textbf{50.00}") == 2
    assert page(outcomes).count("<strong>50.00</strong>") == 2
    assert "*" not in as_text(table)


def test_latex_is_escaped():
    outcomes = [outcome(r"A_1&\$", 1, "base", 50.0, dataset="emoji_food")]
    text = as_latex(only_table(outcomes))
    assert r"A\_1\&\textbackslash{}\$ & 50.00 & - & - &" in text
    assert r"emoji\_food: accuracy (\%)" in text
    for line in (r"\begin{tabular}{lrrrrrr}", r"\toprule", r"\midrule", r"\bottomrule"):
        assert line in text


def test_markdown_reads_no_marks_in_names():
    lines = [[Cell("<b>_[1](x)"), Cell("0.00", 0.0)], [Cell("`c`"), Cell("1.00", 1.0)]]
    table = Table("a_b*", ["", "x|y"], lines, ["`report RUN`"], ["d*"])
    text = as_markdown(table)
    for part in (r"**a\_b\***", r"x\|y", r"\<b\>\_[1\](x)", r"\`c\`", r"- d\*", "**1.00**"):
        assert part in text
    assert "\n\n`report RUN`\n" in text


def test_tables_are_as_wide_as_the_terminal(monkeypatch):
    def width(text):
        return max(len(line) for line in text.splitlines() if "  " in line)

    table = only_table(some_outcomes())
    whole = as_text(table)
    assert width(whole) > 50
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    narrow = as_text(table)
    assert width(narrow) < 50
    assert sorted(set(narrow.split())) == sorted(set(whole.split()))
