"""Metrics of predictions, compared with known values and with scikit-learn."""

import doctest

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score, roc_curve, top_k_accuracy_score

from trainers.prompting.record import metrics


def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(10), 200)
    label = np.where(rng.random(200) < 0.5, p.argmax(1), rng.integers(0, 9, 200))
    label[label == 7] = 0
    top = np.argsort(-p, axis=1)[:, :5]
    arrays = {
        "label": label,
        "prediction": top[:, 0],
        "top": top,
        "probability": np.take_along_axis(p, top, 1),
        "label_log_probability": np.log(p[np.arange(200), label]),
    }
    found = metrics.metrics(arrays, "abcdefghij")
    few = {name: array[label < 9] for name, array in arrays.items()}
    assert metrics.metrics(few, "abcdefghi")["top5_accuracy"] is None
    labels = np.arange(10)
    assert found["top5_accuracy"] == pytest.approx(
        100 * top_k_accuracy_score(label, p, k=5, labels=labels)
    )
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(label, p, labels=labels))
    assert found["per_class_accuracy"]["h"] is None
    assert found["per_class_accuracy"]["b"] == pytest.approx(100 * (top[label == 1, 0] == 1).mean())


def test_calibration_error_of_two_bins():
    """Half of confidence 0.9 and all of 0.3 are correct: 0.75 * 0.4 + 0.25 * 0.7."""
    confidence = np.array([0.9] * 6 + [0.3] * 2)
    hits = np.array([1, 1, 1, 0, 0, 0, 1, 1], bool)
    assert metrics.calibration_error(confidence, hits) == pytest.approx(47.5)
    assert metrics.calibration_error(np.ones(3), np.ones(3, bool)) == 0


def test_a_bin_has_its_upper_edge_and_not_its_lower_one():
    confidence = np.array([0.0, 0.25, 0.26, 0.5, 0.51, 1.0], np.float32)
    hits = np.array([0, 1, 1, 0, 1, 1], bool)
    mean, accuracy, counts = metrics.reliability(confidence, hits, 4)
    assert counts.tolist() == [2, 2, 1, 1]
    assert mean == pytest.approx([0.125, 0.38, 0.51, 1.0])
    assert accuracy.tolist() == [0.5, 0.5, 1.0, 1.0]
    gaps = 2 * 0.375 + 2 * 0.12 + 0.49
    assert metrics.calibration_error(confidence, hits, 4) == pytest.approx(100 * gaps / 6)


@pytest.mark.parametrize("digits", [8, 1])  # with one digit most scores are tied
@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 30), (30, 1), (19, 7), (20, 20), (21, 50), (333, 500)]
)
def test_detection_is_that_of_scikit_learn(n, m, digits):
    rng = np.random.default_rng(n * m)
    inside = rng.normal(0.5, 1, n).round(digits).astype(np.float32)
    outside = rng.normal(0, 1, m).round(digits).astype(np.float32)
    truth = np.repeat([1, 0], [n, m])
    scores = np.concatenate([inside, outside])
    assert metrics.auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert metrics.fpr95(inside, outside) == pytest.approx(fpr[tpr >= 0.95][0], abs=1e-9)


def test_detection_of_known_scores():
    """Of 4 x 2 pairs, 6 are in order and one is tied; 95% of four images means all four."""
    inside = {"mcm": np.array([0.9, 0.8, 0.7, 0.4]), "gl_mcm": np.array([2.0, 3.0])}
    outside = {"mcm": np.array([0.7, 0.1]), "gl_mcm": np.array([1.0, 1.5])}
    assert metrics.detection(inside, outside) == {
        "auroc_mcm": pytest.approx(100 * 6.5 / 8), "fpr95_mcm": 50.0,
        "auroc_gl_mcm": 100.0, "fpr95_gl_mcm": 0.0, "images": 2,
    }  # fmt: skip
    equal = np.ones(3), np.ones(2)
    assert metrics.auroc(*equal) == 0.5 and metrics.fpr95(*equal) == 1


def test_the_examples_of_the_module():
    found = doctest.testmod(metrics)
    assert found.attempted > 3 and not found.failed


def half(label, prediction):
    """Return the columns of a half's images; labels and predictions are numbers in the union."""
    return {
        "joint_label": np.array(label),
        "joint_prediction": np.array(prediction),
        "joint_probability": np.full(len(label), 0.5),
    }


def test_metrics_of_both_halves_by_hand():
    base = half([0, 1, 1], [0, 1, 2])
    new = half([2, 3], [2, 1])
    found = metrics.joint_metrics(base, new)
    assert found == pytest.approx(
        {
            "joint_accuracy": 60,
            "calibration_error": 10,
        }
    )
    scaled = {"joint_scaled_probability": np.full(3, 0.9)}
    both = metrics.joint_metrics(base | scaled, new | {"joint_scaled_probability": np.full(2, 0.9)})
    assert both == pytest.approx(found | {"calibration_error_scaled": 30})
    assert metrics.joint_metrics(base | scaled, new) == found
    apart = [
        side | {"joint_probability": np.full(len(side["joint_label"]), p)}
        for side, p in ((base, 0.64), (new, 0.66))
    ]
    error = metrics.joint_metrics(*apart)["calibration_error"]
    assert error == pytest.approx(4.8)  # |0.648 - 0.6|
    assert metrics.joint_metrics({"label": np.zeros(3)}, new) is None
