"""Metrics of predictions, where they are known or another library knows them."""

import doctest

import numpy as np
import pytest
from paths import ROOT
from sklearn.metrics import log_loss, roc_auc_score, roc_curve, top_k_accuracy_score

from recipe.metrics import auroc, calibration_error, detection, fpr95, metrics


def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), 200)
    label = np.where(rng.random(200) < 0.5, p.argmax(1), rng.integers(0, 7, 200))  # none of 7
    label[label == 7] = 0
    top = np.argsort(-p, axis=1)[:, :5]
    found = metrics(
        {
            "label": label,
            "prediction": top[:, 0],
            "top": top,
            "probability": np.take_along_axis(p, top, 1),
            "label_log_probability": np.log(p[np.arange(200), label]),
        },
        "abcdefgh",
    )
    labels = np.arange(8)
    assert found["top5_accuracy"] == pytest.approx(
        100 * top_k_accuracy_score(label, p, k=5, labels=labels)
    )
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(label, p, labels=labels))
    assert found["per_class_accuracy"]["h"] is None
    assert found["per_class_accuracy"]["b"] == pytest.approx(100 * (top[label == 1, 0] == 1).mean())


def test_calibration_error_of_two_bins():
    """Of confidence 0.9 half are right, of 0.3 all: 0.75 * 0.4 + 0.25 * 0.7."""
    confidence = np.array([0.9] * 6 + [0.3] * 2)
    hits = np.array([1, 1, 1, 0, 0, 0, 1, 1], bool)
    assert calibration_error(confidence, hits) == pytest.approx(47.5)
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0


@pytest.mark.parametrize("digits", [8, 1])  # with one digit most scores are tied
@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 30), (30, 1), (19, 7), (20, 20), (21, 50), (300, 97)]
)
def test_detection_is_that_of_scikit_learn(n, m, digits):
    rng = np.random.default_rng(n * m)
    inside = rng.normal(0.5, 1, n).round(digits).astype(np.float32)
    outside = rng.normal(0, 1, m).round(digits).astype(np.float32)
    truth = np.repeat([1, 0], [n, m])
    scores = np.concatenate([inside, outside])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert fpr95(inside, outside) == pytest.approx(fpr[tpr >= 0.95][0], abs=1e-9)


def test_detection_of_known_scores():
    """Of 4 x 2 pairs 6 are in order and one is tied; 95% of four are all four."""
    inside = {"mcm": np.array([0.9, 0.8, 0.7, 0.4]), "gl_mcm": np.array([2.0, 3.0])}
    outside = {"mcm": np.array([0.7, 0.1]), "gl_mcm": np.array([1.0, 1.5])}
    assert detection(inside, outside) == {
        "auroc_mcm": pytest.approx(100 * 6.5 / 8), "fpr95_mcm": 50.0,
        "auroc_gl_mcm": 100.0, "fpr95_gl_mcm": 0.0, "images": 2,
    }  # fmt: skip


def test_scores_that_are_all_equal_detect_nothing():
    assert auroc(np.full(7, 0.2), np.full(3, 0.2)) == 0.5
    assert fpr95(np.full(7, 0.2), np.full(3, 0.2)) == 1.0


def test_the_example_of_the_documentation():
    found = doctest.testfile(str(ROOT / "docs" / "metrics.md"), module_relative=False)
    assert found.attempted > 3 and not found.failed
