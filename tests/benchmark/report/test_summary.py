"""Summaries: counts, averages and names."""

import json
import math

import numpy as np
import pytest
from outcomes import few_shot, lines, numbers, only_table, outcome, rows, some_outcomes
from paths import ROOT

from benchmark.protocols import BASE2NEW
from benchmark.report.frame import frame
from benchmark.report.notes import H_NOTE
from benchmark.report.paired import harmonic, holm
from benchmark.report.render import render
from benchmark.report.summary import minus_published, published_beside, summarise
from benchmark.report.table import as_text
from benchmark.report.tables import tables


def averages(outcomes):
    return [line for line in numbers(outcomes) if line["h"].average]


def test_h_is_that_of_the_means_and_its_deviation_that_of_the_seeds():
    coop, align = numbers(some_outcomes())
    assert (coop["h"].method, align["h"].method) == ("CoOp", "ALIGN")
    assert align["h"].mean == pytest.approx(2 * 60 * 40 / 100)  # of the seeds: 48 and 32
    assert align["h"].std == pytest.approx(128**0.5)
    assert align["base"].std == pytest.approx(800**0.5)
    assert lines(only_table(some_outcomes()))["CoOp"][0] == "50.00 (1 of 2)"
    assert math.isnan(coop["base"].std)
    assert harmonic(0.0, 0.0) == 0.0


def test_other_seeds_in_each_half_are_marked():
    seeds = {"base": {1: 40.0, 2: 60.0}, "new": {2: 20.0, 3: 30.0}}
    found = [outcome("ALIGN", s, part, a) for part in seeds for s, a in seeds[part].items()]
    h = 2 * 50 * 25 / 75  # seed 2 alone has both halves
    assert lines(only_table(found))["ALIGN"][:3] == [
        "50.00 ± 14.14 (2 of 3)", "25.00 ± 7.07 (2 of 3)", f"{h:.2f} (1 of 3)"
    ]  # fmt: skip
    del found[2]
    assert lines(only_table(found))["ALIGN"][2] == f"{2 * 50 * 30 / 80:.2f} (0 of 3)"


def test_every_metric_is_averaged_and_accuracies_have_h():
    robust = {"base": [20.0, 40.0], "new": [60.0, 20.0]}
    found = [
        outcome(
            "ALIGN", seed, part, 70.0, name, num_classes=4 if part == "base" else 5,
            robust_accuracy=value + 10 * (name == "dtd"), calibration_error=value,
        )
        for name in ("dtd", "eurosat") for part in robust
        for seed, value in enumerate(robust[part], 1)
    ]  # fmt: skip
    summary = summarise(frame(found)).set_index(["dataset", "column", "metric"])
    of_dtd, average = summary.loc["dtd"], summary.loc["average"]
    base = of_dtd.loc["base", "robust_accuracy"]
    assert (base["mean"], base["count"]) == (40, 2)
    assert base["std"] == pytest.approx(200**0.5)
    assert of_dtd.loc["h", "robust_accuracy"]["mean"] == pytest.approx(harmonic(40, 50))
    assert average.loc["base", "robust_accuracy"]["mean"] == 35
    assert average.loc["h", "robust_accuracy"]["mean"] == pytest.approx(harmonic(35, 45))
    assert average.loc["h", "chance"]["mean"] == pytest.approx(harmonic(25, 20))
    assert average.loc["new", "calibration_error"]["mean"] == 40
    assert ("h", "calibration_error") not in average.index, "that of errors means nothing"


def test_a_difference_is_that_of_h_as_the_papers_compute_it():
    """The mean of the seeds' H, 68.39, is 1.26 less."""
    found = [
        outcome("CoOp", seed, part, value, "dtd", config="base2new")
        for part, values in (("base", (95, 75, 70)), ("new", (50, 65, 70)))
        for seed, value in enumerate(values, 1)
    ]
    (line,) = numbers(found)
    printed = [published_beside(row).values[column] for column, row in line.items()]
    assert line["h"].mean == pytest.approx(harmonic(80, 61.6667), rel=1e-6)
    assert minus_published(line["h"]) == pytest.approx(harmonic(80, 61.6667) - printed[2], rel=1e-5)
    assert printed[2] == pytest.approx(harmonic(*printed[:2]), abs=0.02)


def test_tables_and_pages_say_the_same_of_h():
    table = only_table(some_outcomes())
    assert H_NOTE in table.caption and H_NOTE in render(rows(some_outcomes()), "latex")
    assert H_NOTE in " ".join((ROOT / "docs/metrics.md").read_text("utf-8").split())


@pytest.mark.parametrize("more", [{"train_seconds": None}, {}], ids=str)
def test_a_record_without_the_time_of_the_training(more):
    (found,) = few_shot("CoOp", 16, (50,), train_steps=10, **more)
    if not more:
        del found.result["train_seconds"]
    (row,) = frame([found]).to_dict("records")[:1]
    assert row["train_seconds"] is None is row["step_seconds"] and row["value"] == 50


def test_interval_is_students():
    values = [outcome("CoOp", seed, "base", value) for seed, value in ((1, 50), (2, 52), (3, 54))]
    (line,) = numbers(values, interval=True)
    assert line["base"].spread == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)
    table = only_table(values, interval=True)
    assert lines(table)["CoOp"][0] == "52.00 ± 4.97" and "95% interval" in as_text(table)
    (record,) = json.loads(render(rows(values, interval=True), "json"))["rows"]
    assert record["base_half_interval_95"] > 4.9
    assert lines(only_table(values[:1], interval=True))["CoOp"][0] == "50.00"


def test_average_is_h_of_the_averages_over_complete_data_sets():
    second = [outcome("ALIGN", 1, part, 70.0, "emoji_food") for part in ("base", "new")]
    second += [outcome("CoOp", 1, "base", 0.0, "emoji_food", problem="failed: no memory")]
    found = some_outcomes() + second
    coop, align = averages(found)
    assert (align["base"].mean, align["new"].mean) == (65.0, 55.0)
    assert align["h"].mean == pytest.approx(2 * 65 * 55 / 120)
    assert (coop["h"].count, coop["h"].of) == (1, 2)
    average = tables(rows(found))[BASE2NEW][-1]
    assert average.title == "Base-to-new, average over 2 embedded data sets: accuracy (%), 16 shots"
    assert lines(average)["CoOp"] == ["50.00 (1 of 2)"] * 3 + ["1 of 2"]
    assert average.problems == ["CoOp, emoji, 16 shots: a mean over 1 of 2 seeds"]
    assert average.best(1) == set()  # only one method is complete


def test_problems_name_the_setting():
    found = [
        outcome("ALIGN", seed, part, 50.0, name, opts=("M", str(M), "N", str(M)))
        for M, seeds in ((1, (1, 2)), (2, (1,)))
        for name in ("emoji", "emoji_food")
        for part in ("base", "new")
        for seed in seeds
    ]
    assert [average["h"].problems for average in averages(found)] == [
        [],
        [
            "ALIGN, M 2, N 2, emoji, 16 shots: a mean over 1 of 2 seeds",
            "ALIGN, M 2, N 2, emoji_food, 16 shots: a mean over 1 of 2 seeds",
        ],
    ]


def test_embedded_and_public_data_sets_have_no_common_average():
    outcomes = [
        outcome("CoOp", 1, part, 50.0, name)
        for part in ("base", "new")
        for name in ("emoji", "dtd", "eurosat")
    ]
    outcomes += [outcome("CoOp", 1, "base", 50.0, "emoji_food")]
    public, embedded = averages(outcomes)
    assert (public["h"].of, embedded["h"].of) == (2, 2)
    assert "average over 2 embedded data sets" in render(rows(outcomes), "text")


def test_untrained_methods_are_recognised_by_their_records():
    outcomes = few_shot("Frozen", 1, (50,), num_params=0) + few_shot("CoOp", 1, (60, 61))
    outcomes += few_shot("AtTestTime", 1, (70, 71), num_params=0, seeded=True)  # seeds count
    outcomes += few_shot("ZeroshotOther", 4, (40,), problem="failed: no memory")
    assert {row.method: (row.untrained, row.shots) for row in rows(outcomes).itertuples()} == {
        "ZeroshotOther": (True, 0),
        "Frozen": (True, 0),
        "AtTestTime": (False, 1),
        "CoOp": (False, 1),
    }


def test_harmonic_means_and_adjusted_p_at_their_bounds():
    found = harmonic(np.array([0.0, 0.0, 0.25, 100.0]), np.array([0.0, 50.0, 0.75, 50.0]))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.375, 200 / 3])
    assert holm([0.5, 0.01, 0.4]) == pytest.approx([0.8, 0.03, 0.8])
    assert holm([0.9, 0.6, 0.7]) == [1.0, 1.0, 1.0] and holm([]) == []
