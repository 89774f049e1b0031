"""Tables made of outcomes, and the engine's small judgements."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark import progress as progress_module
from benchmark.child import fraction_done, last_sentence
from benchmark.progress import Progress, clock
from benchmark.protocols import Run, base2new_folder
from benchmark.report import averages, base2new_rows, harmonic, render
from benchmark.results import Outcome, misfit
from benchmark.runner import Engine, Settings


def outcome(trainer, seed, part, accuracy, dataset="emoji", problem=None, config="emoji"):
    run = Run(trainer, dataset, config, seed, 16, part, part, Path("nowhere"))
    result = {"accuracy": accuracy, "num_params": 10, "train_seconds": 60.0, "split": "test"}
    return Outcome(run, None if problem else result, problem)


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


def test_h_is_computed_for_each_seed_and_then_averaged():
    coop, align = base2new_rows(some_outcomes())
    assert (coop.method, align.method) == ("CoOp", "ALIGN")
    assert align.mean("h") == pytest.approx((48.0 + 32.0) / 2)  # of the means it would be 48
    assert align.std("h") == pytest.approx(128**0.5)
    assert align.std("base") == pytest.approx(800**0.5)
    assert coop.cell("base") == "50.00 (1 of 2)" and coop.std("base") is None
    assert harmonic(0.0, 0.0) == 0.0


def test_average_row_is_h_of_the_averages_over_complete_data_sets():
    second = [outcome("ALIGN", 1, part, 70.0, "food") for part in ("base", "new")]
    second += [outcome("CoOp", 1, "base", 0.0, "food", problem="failed: no memory")]
    lines = {line["method"]: line for line in averages(base2new_rows(some_outcomes() + second))}
    align = lines["ALIGN"]
    assert (align["base"], align["new"]) == (65.0, 55.0)
    assert align["h"] == pytest.approx(2 * 65 * 55 / 120)
    assert (lines["CoOp"]["datasets"], lines["CoOp"]["of"]) == (1, 2)


def test_every_format_holds_the_numbers_and_the_problems():
    rows = base2new_rows(some_outcomes())
    texts = {form: render(rows, form) for form in ("text", "markdown", "latex", "csv", "json")}
    for text in texts.values():
        assert "failed: no memory [seed 2]" in text and "40.0" in text
    assert "| ALIGN    |" in texts["markdown"]
    assert r"\toprule" in texts["latex"]
    records = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [record["h_n"] for record in records] == ["1", "2"]
    assert float(records[1]["h_mean"]) == pytest.approx(40.0)
    assert json.loads(texts["json"])["rows"][0]["problems"][0] == (
        "base: failed: no memory [seed 2]"
    )


def test_two_configs_of_one_method_are_two_rows():
    outcomes = [outcome("ALIGN", 1, "base", 40.0, config=name) for name in ("a", "b")]
    assert [row.method for row in base2new_rows(outcomes)] == ["ALIGN (a)", "ALIGN (b)"]


def test_results_must_be_those_of_the_run():
    run = outcome("CoOp", 1, "base", 50.0).run
    result = {"trainer": "CoOp", "dataset": "emoji", "seed": 1, "shots": 16}
    result |= {"subsample_classes": "base", "config": {"OPTIM": {"LR": 0.002, "NAMES": ["a"]}}}
    assert misfit(run, result) is None
    assert misfit(run, result | {"seed": 2}) == "seed 2, not 1"
    assert misfit(run, result | {"dataset": "dtd"}) == "dataset dtd, not emoji"
    assert misfit(run, result, ("OPTIM.LR", "2e-3", "OPTIM.NAMES", "('a',)", "NO.KEY", "1")) is None
    assert misfit(run, result, ("OPTIM.LR", "0.01")) == "OPTIM.LR 0.002, not 0.01"


def test_last_sentence():
    traceback = ["Traceback (most recent call last):", '  File "x"', "RuntimeError: a:", "\tb"]
    assert last_sentence(["noise", *traceback]) == "RuntimeError: a:"
    assert last_sentence(["noise", "error: It is too long"]) == "It is too long"
    assert last_sentence([]) == ""


def test_fraction_done():
    assert fraction_done("epoch [3/8] batch [10/20] eta 0:01") == pytest.approx(2.5 / 8)
    assert fraction_done("batch [10/20]") is None


def test_time_left_counts_what_is_known_and_says_so(tmp_path):
    runs = [
        Run(name, "emoji", "emoji", seed, 16, "base", "base",
            base2new_folder(tmp_path, "base", name, "emoji", "emoji", seed, 16))
        for name in ("CoOp", "ALIGN") for seed in (1, 2, 3)
    ]  # fmt: skip
    finished = {"trainer": "CoOp", "dataset": "emoji", "seed": 1, "shots": 16, "accuracy": 5}
    finished |= {"subsample_classes": "base", "train_seconds": 20.0, "test_seconds": 10.0}
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "results.json").write_text(json.dumps(finished))
    assert Engine(runs[:3], Settings(jobs=2)).remaining() == (30.0, True)
    assert Engine(runs, Settings(jobs=1)).remaining() == (60.0, False)


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
