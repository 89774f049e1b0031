"""Measures of several labels, compared with public code on real scores and with scikit-learn."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from trainers.prompting import UserError
from trainers.prompting.record import several
from trainers.prompting.record.several import SHARES, contributions, measures

VOC = Path(__file__).parents[2] / "golden" / "voc2007"
NAMES = dict(zip(["CP", "CR", "OP", "OR", "OF1", "CF1_mean_of_F1", "CF1"], SHARES, strict=True))


def drawn(n=40, K=5, seed=0, unknown=0.1):
    """Return labels and scores with ties, of which the labels say something."""
    rng = np.random.default_rng(seed)
    label = (rng.random((n, K)) < 0.3).astype(np.int8)
    label[:2] = 1
    label[rng.random((n, K)) < unknown] = -1
    label[:2, :] = np.maximum(label[:2], 1)
    return label, (label + rng.integers(-3, 4, (n, K))).astype(np.float16)


@pytest.mark.parametrize("name", ["dualcoop/local", "taidpt/global"])
@pytest.mark.parametrize("how", ["difficult_ignored", "difficult_absent"])
def test_numbers_on_voc2007_are_those_of_public_code(name, how):
    expected = json.loads((VOC / "expected.json").read_text())[name][how]
    scores = load_file(VOC / "scores.safetensors")
    label = scores["label"] if how == "difficult_ignored" else np.maximum(scores["label"], 0)
    found = measures(label, scores[name], decides=name.startswith("dualcoop"))
    precisions = 100 * several.average_precisions(label, scores[name])
    assert precisions == pytest.approx(expected["AP"], abs=1e-5)
    for value in expected["mAP"].values():  # other code orders ties arbitrarily
        assert found["map"] == pytest.approx(value, abs=0.02)
    for top in ("top3", "top5"):
        assert found[f"{top}_of1"] == pytest.approx(expected[top]["OF1"], abs=1e-4)
        assert found[f"{top}_op"] == pytest.approx(expected[top]["OP"], abs=1e-4)
        assert found[f"{top}_or"] == pytest.approx(expected[top]["OR"], abs=1e-4)
        chosen = several.highest(label, scores[name], int(top[-1]))
        shares = several.precision_recall(label, chosen)
        for key, value in expected[top].items():
            assert shares[NAMES[key]] == pytest.approx(value, abs=0.02)
    at_half = expected.get("threshold_0.5", {})
    assert {NAMES[key]: pytest.approx(x, abs=1e-4) for key, x in at_half.items()} == {
        key: x for key, x in found.items() if key in SHARES
    }


def test_difficult_objects_count_as_absent_if_asked():
    scores = load_file(VOC / "scores.safetensors")
    found = measures(scores["label"], scores["dualcoop/local"], decides=True, difficult=True)
    expected = json.loads((VOC / "expected.json").read_text())["dualcoop/local"]
    assert found["map_difficult_absent"] == pytest.approx(
        expected["difficult_absent"]["mAP"]["sklearn"], abs=1e-5
    )
    assert found["map"] == pytest.approx(expected["difficult_ignored"]["mAP"]["sklearn"], abs=1e-5)


def test_the_jackknife_on_voc2007_has_the_known_standard_error():
    scores = load_file(VOC / "scores.safetensors")
    low, high = several.mean_interval(scores["label"], scores["dualcoop/local"])
    assert (100 * low, 100 * high) == pytest.approx((94.640, 95.652), abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_scikit_learn(seed):
    label, score = drawn(seed=seed)
    expected = [
        average_precision_score(y[y >= 0], s[y >= 0]) for y, s in zip(label.T, score.T, strict=True)
    ]
    assert several.average_precisions(label, score) == pytest.approx(expected)


def test_precision_and_recall_are_those_of_scikit_learn():
    label, score = drawn(unknown=0)
    label[:, 3] = 0  # without a positive
    found = measures(label, score, decides=True)  # some scores are 0, a probability of 0.5
    some = [0, 1, 2, 4]
    by_class = precision_recall_fscore_support(label, score > 0, zero_division=0)
    cp, cr, f1 = (100 * values[some].mean() for values in by_class[:3])
    over_all = precision_recall_fscore_support(label, score > 0, average="micro")[:3]
    assert [found[name] for name in SHARES] == pytest.approx(
        [cp, cr, *(100 * x for x in over_all), f1, 2 * cp * cr / (cp + cr)]
    )


def test_classes_without_a_positive_are_left_out_and_counted():
    label, score = drawn()
    label[:, 1] = np.minimum(label[:, 1], 0)
    kept = [0, 2, 3, 4]
    found, without = (measures(label[:, k], score[:, k], True) for k in (range(5), kept))
    assert found.pop("classes_without_positives") == 1
    assert found["map"] == without["map"] and found["cp"] == without["cp"]
    assert found["positive_share"] == without["positive_share"]
    assert found["op"] < without["op"]  # what is said of it is wrong


def test_unknown_labels_change_nothing():
    label, score = drawn()
    other = np.where(label < 0, -score - 9, score)
    assert measures(label, score, True) == measures(label, other, True)


def test_methods_that_only_rank_have_no_threshold():
    label, score = drawn()
    assert not {*SHARES} & {*measures(label, score, decides=False)}


@pytest.mark.parametrize("seed", range(6))
def test_contributions_are_those_of_leaving_each_image_out(seed, monkeypatch):
    monkeypatch.setattr(several, "LEAST", 2)
    label, score = drawn(n=9 + seed, K=3, seed=seed)
    if seed == 1:
        label[1:, 0] = np.minimum(label[1:, 0], 0)  # a single positive: without it no class is left
    n = len(label)

    def mean_of(rows):
        return np.nanmean(several.average_precisions(label[rows], score[rows]))

    value, rows = mean_of(range(n)), np.arange(n)
    pseudo = [n * value - (n - 1) * mean_of(rows != i) for i in range(n)]
    found = contributions(label, score)
    assert found.mean() == pytest.approx(value)
    assert found == pytest.approx(pseudo - np.mean(pseudo) + value)


@pytest.mark.parametrize(
    ("n", "absent", "why"),
    [(199, False, "mAP of 199 images has no interval"), (200, True, "1 of 5 classes have no")],
)
def test_intervals_that_would_be_wrong_are_refused(n, absent, why):
    label, score = drawn(n)
    label[:, 1] = np.minimum(label[:, 1], 0) if absent else label[:, 1]
    with pytest.raises(UserError, match=why):
        contributions(label, score)
    assert drawn(200)[0].any() and len(contributions(*drawn(200))) == 200


def test_examples_are_right():
    assert not doctest.testmod(several).failed
