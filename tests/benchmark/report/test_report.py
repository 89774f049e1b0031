"""Tables made of outcomes, and the engine's small judgements."""

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from outcomes import ablation, few_shot, outcome, transfer

from benchmark.__main__ import main
from benchmark.launch import progress as progress_module
from benchmark.launch.child import fraction_done, last_sentence
from benchmark.launch.command import keep_table
from benchmark.launch.engine import Engine, Settings
from benchmark.launch.progress import Progress, clock
from benchmark.protocols import ABLATION, BASE2NEW, CROSS_DATASET, DOMAIN_GENERALIZATION, FEW_SHOT
from benchmark.protocols.configs import TrainerConfigs
from benchmark.report.page import page
from benchmark.report.published import NAMES, numbers
from benchmark.report.render import as_latex, as_markdown, as_text, render
from benchmark.report.results import misfit
from benchmark.report.rows import averages, harmonic, rows
from benchmark.report.tables import Table, tables

REPOSITORY = Path(__file__).parents[3]


def some_outcomes():
    return [
        outcome("ALIGN", 1, "base", 40.0),
        outcome("ALIGN", 1, "new", 60.0),
        outcome("ALIGN", 2, "base", 80.0),
        outcome("ALIGN", 2, "new", 20.0),
        outcome("CoOp", 1, "base", 50.0),
        outcome("CoOp", 1, "new", 50.0),
        outcome("CoOp", 2, "base", 0.0, problem="failed: no memory"),
        outcome("CoOp", 2, "new", 0.0, problem="not run: it needs the other"),
    ]


def lines(table: Table) -> dict[str, list[str]]:
    """The cells of each line behind its name."""
    return {first.text: [cell.text for cell in cells] for first, *cells in table.lines}


def only_table(outcomes, **options) -> Table:
    ((table,),) = tables(rows(outcomes, **options)).values()
    return table


# ---------------------------------------------------------------------- base-to-new


def test_h_is_computed_for_each_seed_and_then_averaged():
    coop, align = rows(some_outcomes())
    assert (coop.method, align.method) == ("CoOp", "ALIGN")
    assert align.mean("h") == pytest.approx((48.0 + 32.0) / 2)  # of the means it would be 48
    assert align.std("h") == pytest.approx(128**0.5)
    assert align.std("base") == pytest.approx(800**0.5)
    assert coop.cell("base").text == "50.00 (1 of 2)" and coop.std("base") is None
    assert harmonic(0.0, 0.0) == 0.0


def test_interval_is_students():
    values = [outcome("CoOp", seed, "base", value) for seed, value in ((1, 50), (2, 52), (3, 54))]
    (row,) = rows(values, interval=True)
    assert row.half_interval("base") == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)
    assert row.cell("base").text == "52.00 ± 4.97"
    assert "95% interval" in as_text(only_table(values, interval=True))
    assert json.loads(render([row], "json"))["rows"][0]["base_half_interval_95"] > 4.9
    (alone,) = rows(values[:1], interval=True)
    assert alone.cell("base").text == "50.00"


def test_average_is_h_of_the_averages_over_complete_data_sets():
    second = [outcome("ALIGN", 1, part, 70.0, "emoji_food") for part in ("base", "new")]
    second += [outcome("CoOp", 1, "base", 0.0, "emoji_food", problem="failed: no memory")]
    listed = rows(some_outcomes() + second)
    coop, align = averages(listed)
    assert (align.means["base"], align.means["new"]) == (65.0, 55.0)
    assert align.means["h"] == pytest.approx(2 * 65 * 55 / 120)
    assert (coop.datasets, coop.of) == (1, 2)
    average = tables(listed)[BASE2NEW][-1]
    assert average.title == "Base-to-new, average over 2 embedded data sets: accuracy (%), 16 shots"
    assert lines(average)["CoOp"] == ["50.00 (1 of 2)"] * 3 + ["1 of 2"]
    assert average.problems == ["CoOp, emoji, 16 shots: a mean over 1 of 2 seeds"]
    assert average.best(1) == set()  # of a column with one whole number


def test_embedded_and_public_data_sets_have_no_common_average():
    outcomes = [
        outcome("CoOp", 1, part, 50.0, name)
        for part in ("base", "new")
        for name in ("emoji", "dtd", "eurosat")
    ]
    outcomes += [outcome("CoOp", 1, "base", 50.0, "emoji_food")]
    public, embedded = averages(rows(outcomes))
    assert (public.of, embedded.of) == (2, 2)
    assert "average over 2 embedded data sets" in render(rows(outcomes), "text")


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


def test_two_configs_of_one_method_are_two_rows():
    outcomes = [outcome("ALIGN", 1, "base", 40.0, config=name) for name in ("a", "b")]
    assert [row.method for row in rows(outcomes)] == ["ALIGN (a)", "ALIGN (b)"]


# ---------------------------------------------------------------------- few-shot


def test_few_shot_has_a_line_for_each_method_whatever_its_configs():
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


def test_published_numbers_stand_beside_ours():
    table = only_table(few_shot("CoOp", 1, (48, 49)) + few_shot("VPT", 1, (48, 49)))
    assert lines(table) == {
        "CoOp": ["48.50 ± 0.71"],
        "CoOp, published": ["48.40"],
        "CoOp, difference": ["+0.10"],
        "VPT": ["48.50 ± 0.71"],
    }
    assert any("Table D.1" in sentence for sentence in table.caption)
    assert table.best(1) == set()  # ours are equal, and theirs do not compete
    (record,) = json.loads(render(rows(few_shot("CoOp", 1, (48,))), "json"))["rows"]
    assert (record["published"], record["difference"]) == (48.4, pytest.approx(-0.4))


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "emoji"},
        {"backbone": "RN50"},
        {"split": "val"},
        {"trainer": "MMP"},
        {"shots": 3},
        {"protocol": "base2new", "part": "base"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_cannot_be_compared_is_not(other):
    setting = {"trainer": "ALIGN", "dataset": "dtd", "shots": 4, "part": "all"}
    setting |= {"protocol": "few_shot", "seed": 1, "accuracy": 60.0} | other
    assert "published" not in as_text(only_table([outcome(**setting)]))
    assert "published" in as_text(only_table([outcome(**setting | {
        "dataset": "dtd", "backbone": "ViT-B/16", "split": "test", "trainer": "ALIGN", "shots": 4,
        "protocol": "few_shot", "part": "all",
    })]))  # fmt: skip


def test_the_misprint_is_marked_and_not_compared():
    outcomes = few_shot("ALIGN", 8, (80,), "ucf101") + few_shot("ALIGN", 16, (86,), "ucf101")
    table = only_table(outcomes)
    assert lines(table)["ALIGN, published"] == ["81.99", "95.69 (misprint)"]
    assert lines(table)["ALIGN, difference"] == ["-1.99", "-"]
    assert any("misprint" in sentence for sentence in table.caption)
    *_, record = json.loads(render(rows(outcomes), "json"))["rows"]
    assert record["published_is_misprint"] and record["difference"] is None


def test_every_published_number_is_found_by_our_names():
    assert {name for name, _, _ in numbers(FEW_SHOT.published)} == set(NAMES.values())
    assert len(numbers(FEW_SHOT.published)) == 11 * 5 * 5
    configs = {path.stem for path in (REPOSITORY / "configs/datasets").glob("*.yaml")}
    assert set(NAMES) <= configs


# ---------------------------------------------------------------------- transfer


def test_transfer_has_the_source_the_targets_and_their_average():
    outcomes = transfer("CoOp", "imagenet", {"imagenet": 70, "dtd": 40, "caltech101": 90})
    outcomes += transfer("CoOp", "imagenet", {"imagenet": 72, "dtd": 42, "caltech101": 92}, seed=2)
    outcomes += transfer("ZeroshotCLIP", "imagenet", {"dtd": 44}, shots=0)
    outcomes += transfer("CoOp", "imagenet", {"imagenet_a": 50}, protocol="domain_generalization")
    found = tables(rows(outcomes))
    (cross,), (domain,) = found[CROSS_DATASET], found[DOMAIN_GENERALIZATION]
    assert cross.head == ["Method", "imagenet", "caltech101", "dtd", "Average"]
    assert lines(cross) == {
        "ZeroshotCLIP": ["-", "-", "44.00", "44.00 (1 of 2)"],
        "CoOp": ["71.00 ± 1.41", "91.00 ± 1.41", "41.00 ± 1.41", "66.00"],
    }
    assert "from imagenet: accuracy (%) on test images, 16 shots, seeds 1 2" in cross.title
    assert domain.head == ["Method", "imagenet_a"]  # one target needs no average


def test_wide_tables_are_folded_for_the_terminal():
    targets = dict.fromkeys([f"a_long_name_of_a_data_set_{i}" for i in range(9)], 50.0)
    table = only_table(transfer("CoOp", "imagenet", targets))
    text = as_text(table)
    assert max(map(len, text.splitlines())) <= 120
    assert all(text.count(name) == 1 for name in table.head[1:]) and text.count("CoOp") == 3


# ---------------------------------------------------------------------- ablation


def test_ablation_is_in_the_order_of_its_settings():
    outcomes = ablation("beta1", (50, 52), (50, 52)) + ablation("beta0.2", (60, 62), (60, 62))
    outcomes += ablation("M4_N4", (40,), (40,)) + ablation("M16_N1", (41,), (41,))
    prompts, beta = tables(rows(outcomes))[ABLATION]
    assert list(lines(beta)) == ["beta = 0.2", "beta = 1"]
    assert lines(beta)["beta = 1"][2] == "51.00 ± 1.41"
    assert list(lines(prompts)) == ["M = 4, N = 4", "M = 16, N = 1"]
    assert "Ablation of M and N on emoji" in prompts.title and "2 shots" not in beta.title
    assert prompts.title.endswith("seeds 1")  # those of the other table do not count


# ---------------------------------------------------------------------- formats


def test_every_format_holds_the_numbers_and_the_problems():
    listed = rows(some_outcomes())
    texts = {form: render(listed, form) for form in ("text", "markdown", "latex", "csv", "json")}
    texts["html"] = page(listed)
    for text in texts.values():
        assert "failed: no memory [seed 2]" in text and "40.0" in text
    assert "| ALIGN    |" in texts["markdown"]
    records = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [record["h_n"] for record in records] == ["1", "2"]
    assert float(records[1]["h_mean"]) == pytest.approx(40.0)
    assert json.loads(texts["json"])["rows"][0]["problems"][0] == (
        "base: failed: no memory [seed 2]"
    )


def test_csv_of_several_protocols_has_one_head():
    outcomes = some_outcomes() + few_shot("CoOp", 1, (48,))
    records = list(csv.DictReader(io.StringIO(render(rows(outcomes), "csv"))))
    assert [record["protocol"] for record in records] == ["few_shot", "base2new", "base2new"]
    assert records[0]["accuracy_mean"] == "48" and records[1]["accuracy_mean"] == ""


def test_the_best_of_a_column_is_bold():
    outcomes = few_shot("CoOp", 1, (50.001,), "emoji") + few_shot("ALIGN", 1, (50.002,), "emoji")
    outcomes += few_shot("VPT", 1, (40,), "emoji")
    table = only_table(outcomes)
    assert table.best(1) == {0, 2}  # as far as it shows
    assert as_markdown(table).count("**50.00**") == 2
    assert as_latex(table).count(r"\textbf{50.00}") == 2
    assert page(rows(outcomes)).count("<strong>50.00</strong>") == 2
    assert "*" not in as_text(table)


def test_latex_is_escaped():
    outcomes = [outcome(r"A_1&\$", 1, "base", 50.0, dataset="emoji_food")]
    text = as_latex(only_table(outcomes))
    assert r"A\_1\&\textbackslash{}\$ & 50.00 & - & - &" in text
    assert r"emoji\_food: accuracy (\%)" in text
    for line in (r"\begin{tabular}{lrrrrrr}", r"\toprule", r"\midrule", r"\bottomrule"):
        assert line in text


def test_page_is_whole_and_accessible():
    outcomes = some_outcomes() + few_shot("<b>", 1, (48,)) + ablation("beta1", (50,), (50,))
    html = page(rows(outcomes))
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "<script" not in html
    assert html.count("<table") == html.count("<caption") == 3
    assert html.count('<th scope="col">') == 7 + 2 + 4
    assert html.count('<th scope="row">') == 2 + 1 + 1
    assert html.count("<img alt=") == 2
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))


# ---------------------------------------------------------------------- the command


def leave(output: Path, outcomes) -> None:
    """Write the results of these base-to-new or few-shot outcomes."""
    for run, result in ((o.run, o.result) for o in outcomes):
        place = {"base": "base2new/train_base", "new": "base2new/test_new", "all": "few_shot"}
        method = f"{run.dataset}/shots_{run.shots}/{run.trainer}/{run.config}/seed{run.seed}"
        folder = output / place[run.part] / method
        folder.mkdir(parents=True)
        keys = {"trainer": run.trainer, "dataset": run.dataset, "seed": run.seed}
        keys |= {"shots": run.shots, "subsample_classes": run.subsample}
        (folder / "results.json").write_text(json.dumps(result | keys))


def test_report_finds_all_protocols(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    leave(tmp_path, few_shot("CoOp", 1, (48,)))
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 0
    told = capsys.readouterr().out
    assert "Few-shot on dtd" in told and "Base-to-new on emoji" in told
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["few_shot.png", "few_shot.svg"]
    only = ["report", str(tmp_path), "--protocol", "base2new"]
    assert main([*only, "--plots", str(tmp_path / "none")]) == 0
    told = capsys.readouterr()
    assert "Few-shot" not in told.out and not (tmp_path / "none").exists()
    assert told.err == "no plots: they show few-shot runs and the ablation of beta\n"


def test_the_launcher_keeps_the_numbers_of_all_runs_and_says_where(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    keep_table(BASE2NEW, tmp_path)
    path = tmp_path / "base2new" / "table.json"
    (kept,) = json.loads(path.read_text())["rows"]
    assert (kept["h_mean"], kept["h_n"]) == (50.0, 1)
    assert capsys.readouterr().err.rstrip().endswith(f"all of base2new in {tmp_path} are in {path}")


def test_no_runs_are_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--protocol", "few_shot"]) == 2
    told = capsys.readouterr().err
    assert "no runs of few_shot in" in told and told.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path), "--protocol", "few-shot"])
    told = capsys.readouterr().err
    assert "invalid choice: 'few-shot'" in told and told.count("\n") == 1


# ---------------------------------------------------------------------- the engine


def test_results_must_be_those_of_the_run():
    run = outcome("CoOp", 1, "base", 50.0).run
    result = {"trainer": "CoOp", "dataset": "emoji", "seed": 1, "shots": 16}
    result |= {"subsample_classes": "base", "config": {"OPTIM": {"LR": 0.002, "NAMES": ["a"]}}}
    assert misfit(run, result) is None
    assert misfit(run, result | {"seed": 2}) == "seed 2, not 1"
    assert misfit(run, result | {"dataset": "dtd"}) == "dataset dtd, not emoji"
    keys = {"OPTIM.LR": "2e-3", "OPTIM.NAMES": "('a',)", "NO.KEY": 1}
    assert misfit(run, result, keys) is None
    assert misfit(run, result, {"OPTIM.LR": 0.01}) == "OPTIM.LR 0.002, not 0.01"


def test_last_sentence():
    traceback = ["Traceback (most recent call last):", '  File "x"', "RuntimeError: a:", "\tb"]
    assert last_sentence(["noise", *traceback]) == "RuntimeError: a:"
    assert last_sentence(["noise", "error: It is too long"]) == "It is too long"
    assert last_sentence([]) == ""


def test_fraction_done():
    assert fraction_done("epoch [3/8] batch [10/20] eta 0:01") == pytest.approx(2.5 / 8)
    assert fraction_done("batch [10/20]") is None


def test_time_left_counts_what_is_known_and_says_so(tmp_path):
    options = {"trainers": ["CoOp", "ALIGN"], "shots": 16}
    runs = BASE2NEW.plan(tmp_path, ["emoji"], (1, 2, 3), TrainerConfigs(), **options)
    runs = sorted(
        (run for run in runs if run.part == "base"), key=lambda run: run.trainer != "CoOp"
    )
    finished = {"trainer": "CoOp", "dataset": "emoji", "seed": 1, "shots": 16, "accuracy": 5}
    finished |= {"subsample_classes": "base", "train_seconds": 20.0, "test_seconds": 10.0}
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "results.json").write_text(json.dumps(finished))
    assert Engine(runs[:3], Settings()).remaining() == (60.0, True)
    assert Engine(runs, Settings()).remaining() == (60.0, False)


def test_plain_lines_have_a_heartbeat(monkeypatch):
    stream = io.StringIO()
    run = outcome("CoOp", 1, "base", 50.0).run
    child = SimpleNamespace(run=run, seconds=65.0, latest="epoch [1/2]")
    progress = Progress(stream)
    progress.tick([child], 100.0, complete=False)
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress_module, "HEARTBEAT", -1.0)
    progress.tick([child], 100.0, complete=False)
    expected = "CoOp on emoji, seed 1, base (1:05): epoch [1/2] | all: over 1:40 left\n"
    assert stream.getvalue() == expected
    assert clock(3723) == "1:02:03"
