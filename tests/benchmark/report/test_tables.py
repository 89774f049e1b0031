"""Tables: lines, columns, titles, notes, marks, and each format."""

import csv
import io
import json

import pytest
from outcomes import (
    COLUMNS,
    answer,
    comparisons,
    few_shot,
    leave,
    lines,
    metrics,
    numbers,
    only_table,
    outcome,
    page,
    rows,
    some_outcomes,
    transfer,
    varied,
)

from benchmark.protocols import BASE2NEW, CROSS_DATASET, DOMAIN_GENERALIZATION, FEW_SHOT
from benchmark.records import COSTS, Cost
from benchmark.report import plots
from benchmark.report.frame import frame
from benchmark.report.notes import STD
from benchmark.report.render import as_csv, in_style, record, render
from benchmark.report.single import report_runs
from benchmark.report.table import Cell, Table, as_markdown, as_text
from benchmark.report.tables import tables


def test_a_cost_is_one_line(tmp_path, monkeypatch):
    added = Cost("Test", "{:.1f} s".format, over_seeds="max")
    monkeypatch.setitem(COSTS, "test_seconds", added)
    found = [outcome("CoOp", seed, "base", 50.0, test_seconds=seed / 4) for seed in (1, 2)]
    found += [outcome("CoOp", 1, "new", 50.0, test_seconds=9.0), outcome("VPT", 1, "base", 50.0)]
    table = only_table(found)
    assert table.head[-1] == "Test"
    assert {name: cells[-1] for name, cells in lines(table).items()} == {
        "CoOp": "0.5 s",
        "VPT": "-",
    }
    records = json.loads(render(rows(found), "json"))["rows"]
    assert {of["trainer"]: of["test_seconds"] for of in records} == {"CoOp": 0.5, "VPT": None}
    leave(tmp_path, found[:1])
    (run,) = (path.parent for path in tmp_path.rglob("results.json"))
    assert "0.2 s" in report_runs([run], "text")


def test_memory_is_the_most_of_the_trainings():
    outcomes = [
        outcome("ALIGN", 1, "base", 50.0, peak_memory_mib=3208.4),
        outcome("ALIGN", 2, "base", 50.0, peak_memory_mib=3100.0),
        outcome("ALIGN", 1, "new", 50.0, peak_memory_mib=9000.0),
        outcome("CoOp", 1, "base", 50.0, peak_memory_mib=611.7),
        outcome("ZeroshotCLIP", 1, "base", 50.0, peak_memory_mib=500.0, train_seconds=0.0),
        outcome("PLOT", 1, "base", 50.0),
    ]
    table = only_table(outcomes)
    assert table.head[-1] == "Peak memory"
    memory = {name: cells[-1] for name, cells in lines(table).items()}
    assert memory == {"ZeroshotCLIP": "-", "CoOp": "612 MiB", "PLOT": "-", "ALIGN": "3.1 GiB"}


def test_few_shot_has_a_line_for_each_method_with_any_config():
    outcomes = few_shot("ALIGN", 16, (70, 72), config="long", dataset="emoji")
    outcomes += few_shot("ALIGN", 1, (50, 52, 54), config="short", dataset="emoji")
    outcomes += few_shot("ZeroshotCLIP", 4, (45,), dataset="emoji")
    outcomes += few_shot("CoOp", 1, (60,), dataset="emoji", problem="failed: no memory")
    table = only_table(outcomes)
    assert table.head == ["Method", "0 shots", "1 shot", "16 shots"]
    assert lines(table) == {
        "ZeroshotCLIP": ["45.00", "-", "-"],  # one seed is enough
        "CoOp": ["-", "failed", "-"],
        "ALIGN": ["-", "52.00 ± 2.00", "71.00 ± 1.41 (2 of 3)"],
    }
    assert table.problems == ["CoOp, 1 shot: failed: no memory [seed 1]"]


def test_few_shot_average_counts_the_data_sets():
    outcomes = few_shot("CoOp", 1, (50, 60)) + few_shot("CoOp", 1, (70, 80), "eurosat")
    outcomes += few_shot("CoOp", 2, (58, 62)) + few_shot("ZeroshotCLIP", 0, (40,))
    *_, average = tables(rows(outcomes))[FEW_SHOT]
    assert average.title == "Few-shot recognition, average over 2 data sets: accuracy (%)"
    assert lines(average) == {
        "ZeroshotCLIP": ["40.00 (1 of 2)", "-", "-"],
        "CoOp": ["-", "65.00", "60.00 (1 of 2)"],
    }


def test_transfer_has_the_source_the_targets_and_their_average():
    outcomes = transfer("CoOp", "imagenet", {"imagenet": 70, "dtd": 40, "caltech101": 90})
    outcomes += transfer("CoOp", "imagenet", {"imagenet": 72, "dtd": 42, "caltech101": 92}, seed=2)
    outcomes += transfer("ZeroshotCLIP", "imagenet", {"dtd": 44}, shots=0)
    outcomes += transfer("CoOp", "imagenet", {"imagenet_a": 50}, protocol="domain_generalization")
    found = tables(rows(outcomes, beside_published=False))
    (cross,), (domain,) = found[CROSS_DATASET], found[DOMAIN_GENERALIZATION]
    assert cross.head == ["Method", "ImageNet", "Caltech101", "DTD", "Average"]
    assert lines(cross) == {
        "ZeroshotCLIP": ["-", "-", "44.00", "44.00 (1 of 2)"],
        "CoOp": ["71.00 ± 1.41", "91.00 ± 1.41", "41.00 ± 1.41", "66.00"],
    }
    assert "from ImageNet: accuracy (%) on test images, 16 shots, seeds 1 2" in cross.title
    assert domain.head == ["Method", "ImageNet-A"]  # one target needs no average


def test_one_seed_has_no_deviation():
    assert "One seed." in only_table(few_shot("CoOp", 1, (50,), "emoji")).caption
    one_of_two = few_shot("CoOp", 1, (50,), "emoji") + few_shot("VPT", 1, (50, 52), "emoji")
    assert STD in only_table(one_of_two).caption


def test_settings_are_in_order_and_in_one_table():
    outcomes = [
        one
        for setting, values in (
            ("BETA=1+BETA_FORM=convex", (50, 52)),
            ("BETA=1+BETA_FORM=additive", (52, 52)),
            ("BETA=0.2+BETA_FORM=convex", (60, 62)),
            ("M=16+N=1", (41,)),
            ("M=4+N=4", (40,)),
        )
        for one in varied(setting, values, values)
    ]
    (table,) = tables(rows(outcomes))[BASE2NEW]
    assert list(lines(table)) == [
        "ALIGN, BETA 0.2, BETA_FORM convex", "ALIGN, BETA 1, BETA_FORM additive",
        "ALIGN, BETA 1, BETA_FORM convex", "ALIGN, M 4, N 4", "ALIGN, M 16, N 1",
    ]  # fmt: skip
    assert lines(table)["ALIGN, BETA 1, BETA_FORM convex"][2] == "51.00 ± 1.41"


@pytest.mark.parametrize("form", ["text", "latex"])
def test_where_nothing_has_finished_no_seed_is_counted(form):
    outcomes = [outcome("CoOp", 1, part, 0.0, problem="failed: no memory")
                for part in ("base", "new")]  # fmt: skip
    told = render(rows(outcomes), form)
    assert "No run has finished." in told and "One seed." not in told


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


def test_the_best_of_a_column_is_bold():
    outcomes = few_shot("CoOp", 1, (50.001,), "emoji") + few_shot("ALIGN", 1, (50.002,), "emoji")
    outcomes += few_shot("VPT", 1, (40,), "emoji")
    table = only_table(outcomes)
    assert table.best(1) == {0, 2}  # equal as shown
    assert as_markdown(table).count("**50.00**") == 2
    assert in_style([table], "latex").count(r"\textbf{50.00}") == 2
    assert page(outcomes).count("<strong>50.00</strong>") == 2
    assert "*" not in as_text(table)


def test_latex_is_escaped():
    outcomes = [outcome(r"A_1&\$", 1, "base", 50.0, dataset="emoji_food")]
    text = in_style([only_table(outcomes)], "latex")
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


# ------------------------------------------------------------------ marks of methods

MARKED, PLAIN = "MMRL (llm, per data set)", "CoOp"
MEANING = "llm: words or sentences of a language model; per data set: settings chosen for each"


@pytest.fixture
def marked(tmp_path):
    found = []
    for trainer, seed, part in (("CoOp", 1, "base"), ("CoOp", 1, "new"), ("MMRL", 1, "base"),
                                ("MMRL", 1, "new")):  # fmt: skip
        # records of runs on new classes may lack the key
        more = {"beyond": ["per data set", "llm"]} if (trainer, part) == ("MMRL", "base") else {}
        for dataset in ("emoji_food", "emoji_night"):
            one = outcome(trainer, seed, part, 50.0, dataset, num_classes=2, **more)
            found.append(answer(one, tmp_path / f"{trainer}{part}{dataset}", COLUMNS))
    return found


def test_marks_are_in_tables_of_every_kind(marked):
    found, tidy = rows(marked), frame(marked)
    views = [comparisons(tidy, "CoOp"), comparisons(tidy, "MMRL")]
    for table in [*views[0].tables().popitem()[1], *metrics(marked).values()]:
        names = [line[0].text for line in table.lines]
        assert MARKED in names and set(names) <= {MARKED, PLAIN}
        assert MEANING in as_text(table)
    for table in next(iter(views[1].tables().values())):
        assert f"{MARKED} minus each other" in table.title and MEANING in as_text(table)
    latex = render(found, "latex")
    assert f"{MARKED} &" in latex and latex.count(MEANING) == latex.count(r"\begin{table")
    machine = as_csv([record(list(line.values())) for line in numbers(marked)])
    assert machine.count("llm; per data set") == 3 and "MMRL (" not in machine
    assert "Beyond" not in as_text(only_table(marked[:4:2]))


def test_marks_are_in_the_legends_of_plots(marked):
    (figure, _), *_ = plots.figures(rows(marked)).values()
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(shown) == [PLAIN, MARKED]
    alone = few_shot("MMRL", 1, (50,), beyond=["llm"])
    (axis,) = plots.figures(rows(alone))["few_shot"][0].axes
    assert axis.get_title() == "MMRL (llm): DTD"
