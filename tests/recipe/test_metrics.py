"""Metrics of predictions, where they are known or another library knows them."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score

from recipe.metrics import calibration_error, metrics


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
