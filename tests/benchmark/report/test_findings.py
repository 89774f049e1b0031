"""The first lines of a report: what was found, and what is not claimed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from outcomes import base2new, few_shot, outcome, ran, transfer

from benchmark.report.findings import findings, is_above
from benchmark.report.frame import frame
from benchmark.report.paired import Pair, difference
from benchmark.report.render import FORMATS
from benchmark.report.summary import summarise


def found(outcomes):
    tidy = frame(outcomes)
    return findings(tidy, summarise(tidy))


@pytest.fixture
def four(answered):
    outcomes = base2new(answered, "ALIGN", [36] * 3, [30] * 3, num_classes=3)
    outcomes += base2new(answered, "MaPLe", [36] * 3, [29] * 3, num_classes=3)
    outcomes += base2new(answered, "CoOp", [20] * 3, [20] * 3, num_classes=3)
    return outcomes + base2new(answered, "ZeroshotCLIP", [10], [10], num_classes=3)


def test_the_best_line_is_above_one_and_not_told_apart_from_another(four):
    (text,) = found(four)
    start, _, rest = text.partition("; ")
    h = 2 * 90 * 75 / 165
    assert start == f"Base-to-new, emoji, 16 shots: ALIGN has the highest H, {h:.1f}"
    assert rest.startswith(f"{h - 50:.1f} [") and "] above CoOp (50.0); " in rest
    assert "not told apart from MaPLe (80.3). Zero-shot CLIP has 25.0, " in rest
    assert rest.endswith("] lower. Chance is 33.3.")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [2, 5])
def test_of_equal_lines_the_best_is_rarely_above_another(lines):
    """In at most about 5% of draws, although the data choose it; methods train nothing."""
    rng, draws, wrong = np.random.default_rng(0), 1000, 0
    for _ in range(draws):
        hard = rng.standard_normal(300)
        right = hard + rng.standard_normal((lines, 300)) > 0
        best, *others = right[np.argsort(-right.mean(1), kind="stable")][:, None]
        one = np.arange(300), np.array([1])
        found = [difference([[Pair(*one, best, other)]], trained=False) for other in others]
        wrong += any(is_above(each.low, each.p, lines) for each in found)
    assert 0.02 < wrong / draws < 0.06


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_one_seed_and_two_claim_nothing(answered, seeds):
    outcomes = [
        answered(trainer, seed, "all", right - seed, protocol="few_shot", num_classes=3)
        for trainer, right in (("ALIGN", 40), ("CoOp", 5))
        for seed in range(1, seeds + 1)
    ]
    (text,) = found(outcomes)
    says = {
        1: "97.5; with one seed, nothing is claimed about methods that depend on seeds. Chance is",
        2: "96.2; intervals of two seeds are so wide that nothing is claimed about methods that "
        "depend on seeds. Chance is 33.3.",
        3: "95.0; 87.5 [",
    }
    start = "Few-shot recognition, emoji, 16 shots: ALIGN has the highest accuracy, "
    assert text.startswith(start + says[seeds])


def test_one_training_claims_nothing_beside_an_untrained_best(answered):
    """Two methods that train nothing are told apart by their images alone."""
    more = {"protocol": "few_shot", "num_classes": 3}
    outcomes = [answered("CoOp", 1, "all", 4, **more)]
    for trainer, right in (("ZeroshotCLIP", 36), ("StatA", 10)):
        outcomes.append(answered(trainer, 1, "all", right, shots=0, num_params=0, **more))
    (text,) = found(outcomes)
    assert "nothing is claimed about methods that depend on seeds; 65.0 [" in text
    assert "] above StatA (25.0)" in text and "CoOp" not in text


def test_lines_that_lack_runs_are_named(answered):
    outcomes = [answered("ZeroshotCLIP", 1, "all", 10, protocol="few_shot", shots=0)]
    outcomes += [answered("CoOp", seed, "all", 9, protocol="few_shot") for seed in (1, 2)]
    outcomes += [answered("LPPlusPlus", 1, "all", 38, protocol="few_shot")]
    outcomes += few_shot("ALIGN", 16, (0,), "emoji", problem="failed: no memory")
    (text,) = found(outcomes)
    assert "ZeroshotCLIP has the highest accuracy, 25.0" in text
    assert text.endswith(" Left out, as runs are missing: ALIGN (0 of 2) and LPPlusPlus (1 of 2).")
    whole = [*outcomes[:3], answered("LPPlusPlus", 1, "all", 38, protocol="few_shot", shots=4)]
    assert "Left out" not in found(whole)[0]  # it has other shots
    both = [one for name in ("dtd", "eurosat") for one in few_shot("CoOp", 4, (60, 61, 62), name)]
    (text,) = found(both + few_shot("ALIGN", 4, (90, 91, 92)))
    assert "4 shots: the accuracy of CoOp is 61.0. Left out, as runs are missing: ALIGN (1" in text


def test_too_few_images_that_differ_claim_nothing(answered):
    alone = [answered(name, 1, "all", right, 1, "dtd", protocol="few_shot", num_params=0)
             for name, right in (("MTA", 1), ("ZERO", 0))]  # fmt: skip
    assert "100.0; not told apart from ZERO (0.0)" in found(alone)[0]
    more = {"dataset": "eurosat", "protocol": "few_shot", "num_params": 0}
    alone = [answered(name, 1, "all", right, **more) for name, right in (("MTA", 40), ("ZERO", 0))]
    assert found(alone)[0].endswith("MTA has the highest accuracy, 100.0.")  # nothing varies


def test_the_first_line_is_about_attacked_images(answered):
    """Runs keep no answers to attacked images, so nothing is claimed about these."""

    def attacked(trainer, base, new, form="", kind="pgd"):
        facts = {"text": f"{kind} 4/255, 100 steps of 0.25, 64 images{form}"}
        more = {"attack": facts, "clean_accuracy": 50.0, "num_params": 0 if form else 10}
        outcomes = [
            answered(trainer, seed, part, right, robust_accuracy=robust, **more)
            for part, (right, robust) in (("base", base), ("new", new))
            for seed in (1, 2, 3)
        ]
        config = {"run": ran(TEST={"ATTACK": kind})}
        return [replace(one, result=one.result | config) for one in outcomes]

    outcomes = attacked("CoOp", (36, 10.0), (36, 30.0)) + attacked("ALIGN", (30, 40.0), (30, 40.0))
    outcomes += attacked("ZeroshotCLIP", (10, 5.0), (10, 5.0), ", static")
    first, second = found(outcomes)
    assert first == (
        "Base-to-new, emoji, 16 shots: under pgd 4/255, 100 steps of 0.25, 64 images, ALIGN has "
        "the highest robust H, 40.0, before CoOp (15.0) and ZeroshotCLIP, static (5.0); no "
        "difference is tested."
    )
    assert second.startswith("Base-to-new, emoji, 16 shots, before the attack: CoOp, attack pgd")
    assert " has the highest H, 90.0; " in second
    other = attacked("MaPLe", (30, 1.0), (30, 1.0), kind="cw")
    of_pgd, of_cw, _ = found(outcomes[:6] + other)
    assert "under pgd 4/255" in of_pgd and ", the robust H of CoOp is 15.0." in of_pgd
    assert "under cw 4/255" in of_cw and "the robust H of MaPLe is 1.0" in of_cw


def test_without_predictions_or_rivals_only_the_numbers_are_named():
    assert found(few_shot("CoOp", 4, (60, 62))) == [
        "Few-shot recognition, DTD, 4 shots: the accuracy of CoOp is 61.0."
    ]
    outcomes = few_shot("CoOp", 4, (60, 61, 62), num_classes=50)
    outcomes += few_shot("ALIGN", 4, (90, 91, 92))
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


def test_each_form_but_csv_begins_with_it(four, reported):
    (text,) = found(four)
    said = {form: reported(four, "--format", form) for form in FORMATS}
    page = said["html"]
    assert "<title>Base-to-new on emoji</title>" in page
    assert page.index(text) < page.index("<table") < page.index("Page made on")
    first, *_ = json.loads(said["json"]).items()
    assert first == ("findings", [text])
    for form, mark in (("text", ""), ("markdown", ""), ("latex", "% ")):
        assert said[form].startswith(f"{mark}{text}\n")
    assert text not in said["csv"]
