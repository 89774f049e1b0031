"""The first lines of a report: what was found, and what is not claimed."""

import json

import pytest
from outcomes import base2new, few_shot, outcome, rows, transfer

from benchmark.report.findings import findings
from benchmark.report.frame import frame
from benchmark.report.page import page_of
from benchmark.report.render import FORMATS, render


def found(outcomes):
    return findings(frame(outcomes), rows(outcomes))


@pytest.fixture
def four(answered):
    outcomes = base2new(answered, "ALIGN", [36, 36], [30, 30], num_classes=3)
    outcomes += base2new(answered, "MaPLe", [36, 36], [29, 29], num_classes=3)
    outcomes += base2new(answered, "CoOp", [20, 20], [20, 20], num_classes=3)
    return outcomes + base2new(answered, "ZeroshotCLIP", [10], [10], num_classes=3)


def test_the_best_line_is_above_one_and_not_told_apart_from_another(four):
    (text,) = found(four)
    start, _, rest = text.partition("; ")
    h = 2 * 90 * 75 / 165
    assert start == f"Base-to-new, emoji, 16 shots: ALIGN has the highest H, {h:.1f}"
    assert rest.startswith(f"{h - 50:.1f} [") and "] above CoOp (50.0); " in rest
    assert "not told apart from MaPLe (80.3). Zero-shot CLIP has 25.0, " in rest
    assert rest.endswith("] lower. Chance is 33.3.")


def test_one_seed_claims_nothing(answered):
    outcomes = [answered("ALIGN", 1, "all", 40, protocol="few_shot", num_classes=3)]
    outcomes += [answered("CoOp", 1, "all", 4, protocol="few_shot", num_classes=3)]
    assert found(outcomes) == [
        "Few-shot recognition, emoji, 16 shots: ALIGN has the highest accuracy, 100.0; with one "
        "seed, no difference is claimed. Chance is 33.3."
    ]


def test_without_predictions_or_rivals_only_the_numbers_are_named():
    assert found(few_shot("CoOp", 4, (60, 62))) == [
        "Few-shot recognition, DTD, 4 shots: CoOp has the accuracy, 61.0."
    ]
    outcomes = few_shot("CoOp", 4, (60, 62), num_classes=50) + few_shot("ALIGN", 4, (90, 92))
    assert found(outcomes) == [
        "Few-shot recognition, DTD, 4 shots: ALIGN has the highest accuracy, 91.0."
    ]
    assert found(few_shot("CoOp", 4, (60,), problem="failed: no memory")) == []


def test_zero_shot_beside_a_method_is_named_if_it_has_no_run():
    numbers = ((60, 20.0), (90, 40.0))
    outcomes = [
        *(outcome("TDA", 1, part, accuracy, zero_shot_accuracy=zero)
          for part, (accuracy, zero) in zip(("base", "new"), numbers, strict=True)),
        outcome("CoOp", 1, "base", 91), outcome("CoOp", 1, "new", 92),
    ]  # fmt: skip
    h = 2 * 20 * 40 / 60
    assert found(outcomes)[0].endswith(f"Zero-shot CLIP with the text of TDA has {h:.1f}.")
    alone = [outcome("ZeroshotCLIP", 1, part, 30) for part in ("base", "new")]
    (text,) = found([*outcomes, *alone])
    assert "Zero-shot CLIP has 30.0" in text and "the text of" not in text
    outcomes[0].result["zero_shot_accuracy"] = None
    assert "Zero-shot" not in found(outcomes)[0]


def test_an_average_stands_for_its_data_sets_and_the_source_does_not_count():
    outcomes = transfer("CoOp", "imagenet", {"imagenet": 90, "dtd": 40, "eurosat": 50})
    outcomes += transfer("ALIGN", "imagenet", {"imagenet": 60, "dtd": 60, "eurosat": 70})
    (text,) = found(outcomes)
    assert text.startswith(
        "Cross-dataset transfer, average over 2 data sets, 16 shots: ALIGN has the highest "
        "accuracy, 65.0; "
    )


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_but_csv_begins_with_it(four, form):
    tidy, numbers = frame(four), rows(four)
    (text,) = found(four)
    if form == "html":
        page = page_of(tidy, numbers, sentences=[text])
        assert "<title>Base-to-new on emoji</title>" in page
        assert page.index(text) < page.index("<table") < page.index("Page made on")
        return
    shown = render(numbers, form, sentences=[] if form == "csv" else [text])
    if form == "json":
        assert list(json.loads(shown))[0] == "findings" and json.loads(shown)["findings"] == [text]
    else:
        mark = "% " if form == "latex" else ""
        assert shown.startswith(f"{mark}{text}\n") == (form != "csv")
