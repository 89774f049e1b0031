"""Answers with a chosen error: thresholds, sets and likeness by hand, promises, bad input."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dassl.config import get_cfg_default
from golden_files import read
from paths import GOLDEN
from scipy.stats import beta
from torch import nn

from trainers.prompting import AtTestTime, OnSupport, UserError
from trainers.prompting.building.config import add_nodes
from trainers.prompting.record.calibration import (
    NONE,
    SEVERAL,
    Calibration,
    centre_and_classes,
    likeness,
)
from trainers.prompting.trainer.evaluation import why_uncalibrated


def test_the_lac_scores_of_the_golden_file():
    golden = read(GOLDEN / "conformal_scores.safetensors")
    data, expected = golden.part("calibration/"), golden.part("none/lac/")
    found = Calibration.fit(data["logits"], data["label"], 1.0)
    rising = expected["calibration_scores"].sort().values
    torch.testing.assert_close(found.scores, rising, rtol=1e-5, atol=1e-6)
    assert found.threshold(0.1) == pytest.approx(float(expected["threshold_exact"]), abs=1e-5)
    test = golden.part("test/")["logits"]
    p = test.softmax(1)
    answers = found.answers(test, test, 0.1, [str(k) for k in range(p.shape[1])])
    for row, inside, answer in zip(p, expected["sets_exact"], answers, strict=True):
        listed = row.argsort(descending=True, stable=True)
        own = listed[inside[listed]] if inside.any() else listed[:1]  # never empty
        assert answer.classes == [str(k) for k in own.tolist()] and answer.likeness is None
        assert answer.answer == (answer.classes[0] if len(own) == 1 else SEVERAL)
        assert answer.p == pytest.approx(row[own].tolist())


def test_images_unlike_all_classes_are_none_of_these():
    rng = torch.Generator().manual_seed(0)
    z, text = torch.randn(6, 4, generator=rng) + 3, torch.randn(2, 4, generator=rng)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    centre, classes = centre_and_classes(z, labels, text)
    x, t = F.normalize(z, dim=1), F.normalize(text, dim=1)
    torch.testing.assert_close(centre, x.mean(0))
    for k in range(2):
        w = F.normalize(t[k] - t.mean(0), dim=0)
        w = w + F.normalize(x[labels == k] - x.mean(0), dim=1).sum(0)
        torch.testing.assert_close(classes[k], w / w.norm())
    others = torch.cat([z, torch.randn(14, 4, generator=rng)])
    x = F.normalize(others, dim=1)
    cosines = likeness(others, centre, classes)
    expected = F.cosine_similarity((x - centre)[:, None], classes[None], dim=2).amax(1)
    torch.testing.assert_close(cosines, expected)
    known, apart = torch.linspace(0, 1, 39), torch.tensor([[9.0, 0.0]]).repeat(39, 1)
    one = Calibration.fit(apart, torch.zeros(39, dtype=torch.long), 1.0, known)
    one = replace(one, centre=centre, classes=classes)
    # scores tie, in the order of the images, whose likeness falls as its rank rises: 39, 38, ...
    assert one.ranks.tolist() == sorted(max(i, 40 - i) for i in range(1, 40))
    assert one.limits(0.05)[1] == known[0] and one.limits(0.02) == (1, -1)  # R is 39; too few
    assert one.limits(0.5)[1] == pytest.approx(float(known[39 - one.ranks[19]]))
    logits = torch.tensor([[9.0, 0.0]]).repeat(20, 1)
    for error in (0.3, 0.6):
        found, least = one.answers(logits, others, error, ["a", "b"]), one.limits(error)[1]
        assert {answer.answer for answer in found} == {"a", NONE}
        for answer, cosine in zip(found, cosines.tolist(), strict=True):
            kept = cosine >= least
            assert answer.likeness == pytest.approx(cosine) and bool(answer.classes) == kept
            assert len(answer.p) == kept and (answer.answer == "a") == kept


def test_two_ways_to_lack_a_class_spend_one_error():
    """By hand: scores and likenesses of ten images, whose ranks are in the table."""
    p = torch.tensor([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5])  # ranks 1 to 10
    cosines = torch.tensor([0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.95])  # 10, 2, .. 9, 1
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    one = Calibration.fit(logits, torch.zeros(10, dtype=torch.long), 1.0, cosines)
    assert one.ranks.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10]
    # k = ceil(11 * 0.7) = 8: R = 9, so that images 1 and 10 lack their class
    limit, least = one.limits(0.3)
    assert (limit, least) == (pytest.approx(0.45), pytest.approx(0.2))
    assert one.threshold(0.3) == pytest.approx(0.4)  # of an exported file, which has no likeness
    assert one.limits(0.05) == (1, -1)


def test_too_few_images_leave_all_classes():
    one = Calibration.fit(torch.eye(3).repeat(6, 1), torch.arange(3).repeat(6), 0.1)  # 18
    assert one.threshold(0.05) == 1 and one.threshold(0.1) < 1
    (answer,) = one.answers(torch.tensor([[2.0, 0, 1]]), torch.zeros(1, 4), 0.05, "abc")
    assert answer.classes == ["a", "c", "b"] and answer.answer == SEVERAL
    assert one.promise(0.05) == (
        "18 images calibrated this run. With fewer than 19 of them, every answer has all classes "
        "at an error of 0.05: take 0.06 or more, or label more images."
    )
    assert one.threshold(0.06) < 1
    said = one.promise(0.1)
    assert said == (
        "About 10% of images like the 18 that calibrated this run lack their class in the answer; "
        "with bad luck (once in 20 times), 15% or more. Of a single "
        "class, or where classes have other shares than then, it may be more."
    )
    # coverage is Beta(96, 5) with 100 images, and Beta(20, 1.04) if these are worth 20
    hundred = Calibration(1.0, torch.rand(100), torch.ones(100))
    assert "20 times), 9% or more" in hundred.promise(0.05)
    worth = Calibration(1.0, torch.rand(100), torch.rand(100), 20.0)
    assert worth.most_lacking(0.05) == pytest.approx(
        1 - beta(96 * 0.21 * 0.99, 1.04).ppf(0.05), abs=0.01
    )
    drawn = 1 - np.sort(np.random.default_rng(0).random((4000, 100)), axis=1)[:, 95]
    assert np.mean(drawn > hundred.most_lacking(0.05)) < 0.06


def test_where_most_answers_are_several_a_larger_error_is_named():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, 199))
    logits = torch.from_numpy(rng.normal(size=(199, 4))) + 1.5 * torch.eye(4)[labels]
    one = Calibration.fit(logits, labels, 1.0)
    given = {e: one.answers(logits, logits, e, "abcd") for e in (0.05, 0.1, 0.2)}
    several = {
        e: np.mean([answer.answer == SEVERAL for answer in found]) for e, found in given.items()
    }
    assert several[0.05] > several[0.1] > 0.5 >= several[0.2]
    said = f"{several[0.05]:.0%} of answers name several classes; with an error of 20%, "
    assert one.promise(0.05).endswith(f"{said}{several[0.2]:.0%}.")
    assert "several" not in one.promise(0.2)
    lost = Calibration.fit(torch.zeros(199, 4), labels, 1.0)
    assert lost.promise(0.05).endswith("100% of answers name several classes.")


@pytest.mark.parametrize("error", [0, 1.5, -1, 1, math.nan])
def test_an_error_that_is_no_share_is_refused(error):
    one, x = Calibration(1.0, torch.rand(9), torch.rand(9)), torch.ones(1, 2)
    with pytest.raises(UserError, match="The error is.* must be between 0 and 1"):
        one.answers(x, x, error, "ab")


WITH = {"validation": [1]}
REASONS = {
    "validated": ({}, {}, WITH, "only the last epoch has one"),
    "none": ({}, {}, {}, "it takes validation images, but there are none"),
    "search": ({"searches": True}, {}, WITH, "but Other chooses settings on them"),
    "best": ({"trains": True}, {"FINAL_MODEL": "best_val"}, WITH, "best_val chooses the epoch"),
    "evaluated": ({}, {"SPLIT": "val"}, WITH, "they are what TEST.SPLIT val evaluates"),
    "stream": ({"stream": True}, {}, WITH, "Other depend on the images before"),
}


@pytest.mark.parametrize("case", REASONS)
def test_only_images_that_nothing_else_has_read_calibrate(case):
    of_method, of_test, of_data, sentence = REASONS[case]
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.TEST.update(of_test)
    body = {
        "__init__": nn.Module.__init__,
        "settings": SimpleNamespace(several=False),
        "trains": False,
        **of_method,
    }
    method = type("Other", (OnSupport, AtTestTime), body)()
    assert sentence in why_uncalibrated(method, SimpleNamespace(**of_data), cfg)
