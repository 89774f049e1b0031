"""Metrics of predictions besides accuracy: calibration, detection, base and new classes together.

docs/metrics.md defines them. Needs no PyTorch.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

TOP5_FROM = 10  # classes; with fewer, five guesses say little
BINS = 15  # of the calibration error, of equal width


def metrics(arrays: Mapping[str, np.ndarray], classnames: Sequence[str]) -> dict:
    """Compute the metrics of one evaluation.

    Args:
        arrays: as `predictions` reads them.
        classnames: of all classes, by label.

    Returns:
        `top5_accuracy` (None below ten classes), `calibration_error` and `per_class_accuracy` in
        %, the last by class name, as `number_names` writes it (None for a class without images);
        `negative_log_likelihood` in nats. If their columns are present, also, in %,
        `calibration_error_scaled`, after division by the temperature, and `joint_accuracy`, over
        base and new classes together.
    """
    label = arrays["label"]
    hits = arrays["prediction"] == label
    counts = np.bincount(label, minlength=len(classnames))
    right = np.bincount(label[hits], minlength=len(classnames))
    more = {}
    if "scaled_probability" in arrays:
        more["calibration_error_scaled"] = calibration_error(arrays["scaled_probability"], hits)
    if "zero_shot" in arrays:
        more["zero_shot_accuracy"] = 100 * float((arrays["zero_shot"] == label).mean())
    if "joint_label" in arrays:
        joint_hits = arrays["joint_prediction"] == arrays["joint_label"]
        more["joint_accuracy"] = 100 * float(joint_hits.mean())
    return {
        "top5_accuracy": 100 * float((arrays["top"] == label[:, None]).any(axis=1).mean())
        if len(classnames) >= TOP5_FROM
        else None,
        "calibration_error": calibration_error(arrays["probability"][:, 0], hits),
        "negative_log_likelihood": -float(arrays["label_log_probability"].mean(dtype=float)),
        "per_class_accuracy": {
            name: 100 * float(k / n) if n else None
            for name, k, n in zip(number_names(classnames), right, counts, strict=True)
        },
        **more,
    }


def number_names(classnames: Sequence[str]) -> list[str]:
    """Return class names with their numbers where a name is not the only one of its kind.

    Examples:
        >>> number_names(["missile", "cat", "missile"])
        ['missile (class 0)', 'cat', 'missile (class 2)']
    """
    count = Counter(classnames)
    return [f"{n} (class {k})" if count[n] > 1 else n for k, n in enumerate(classnames)]


def reliability(
    confidence: np.ndarray, hits: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, ...]:
    """Compute a reliability diagram: bins (0, 1/15], (1/15, 2/15], ... of predicted probabilities.

    Args:
        confidence: (n,), probabilities of the predictions.
        hits: (n,), True where a prediction is correct.

    Returns:
        For each bin, the mean confidence, the accuracy (both from 0 to 1; 0 in an empty bin) and
        the number of images.
    """
    confidence = confidence.astype(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = np.maximum(counts, 1)
    means = [np.bincount(place, values, bins) / some for values in (confidence, hits)]
    return (*means, counts)


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error (%): the mean gap of confidence and accuracy."""
    mean, accuracy, counts = reliability(confidence, hits, bins)
    return 100 * float((np.abs(mean - accuracy) * counts).sum() / counts.sum())


def detection(inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray]) -> dict:
    """Compute the metrics of out-of-distribution detection, in %.

    Args:
        inside: scores of the run's own images, (n,), by the name of the score.
        outside: scores of images of other classes, (m,), likewise.

    Returns:
        `auroc_SCORE` and `fpr95_SCORE` of each score; `images`, m.
    """
    numbers: dict[str, float] = {}
    for name, scores in inside.items():
        numbers[f"auroc_{name}"] = 100 * auroc(scores, outside[name])
        numbers[f"fpr95_{name}"] = 100 * fpr95(scores, outside[name])
    return numbers | {"images": len(outside["mcm"])}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the share of pairs whose inside score is higher, from 0 to 1; ties count half.

    Args:
        inside: (n,), scores of images of the run's classes.
        outside: (m,), scores of other images.

    Examples:
        >>> inside, outside = np.array([0.9, 0.6, 0.5]), np.array([0.6, 0.4, 0.2])
        >>> round(auroc(inside, outside), 4)  # 7 of 9 pairs in order, one tied: 7.5 / 9
        0.8333
    """
    from scipy.stats import rankdata  # slow to load

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the share of outside scores accepted when 95% of the inside scores are, from 0 to 1.

    Args: as `auroc`.

    Examples:
        >>> inside, outside = np.array([0.9, 0.6, 0.5]), np.array([0.6, 0.4, 0.2])
        >>> round(fpr95(inside, outside), 4)  # 95% of three are all three: the threshold is 0.5
        0.3333
    """
    n = len(inside)
    threshold = np.sort(inside)[n - -(-95 * n // 100)]
    return float((np.asarray(outside) >= threshold).mean())


def wilson(p: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's interval of a share p of n, which may be a fraction; z gives the coverage.

    Examples:
        >>> [round(bound, 3) for bound in wilson(4 / 6, 6)]
        [0.3, 0.903]
    """
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half) / (1 + z * z / n), min(1.0, (middle + half) / (1 + z * z / n))


def joint_metrics(
    base: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> dict[str, float] | None:
    """Compute metrics over base and new classes together, from the two evaluations of a training.

    Args:
        base: predictions for test images of base classes, as `predictions` reads them.
        new: predictions for test images of new classes.

    Returns:
        In %: `joint_accuracy`, `calibration_error` and `calibration_error_scaled` (if there is a
        temperature), all of all images over all classes. None if an evaluation lacks the columns.
    """
    if "joint_label" not in base or "joint_label" not in new:
        return None
    hits = np.concatenate([side["joint_prediction"] == side["joint_label"] for side in (base, new)])
    numbers = {"joint_accuracy": 100 * float(hits.mean())}
    columns = {"calibration_error": "joint_probability"}
    if "joint_scaled_probability" in base and "joint_scaled_probability" in new:
        columns["calibration_error_scaled"] = "joint_scaled_probability"
    return numbers | {
        name: calibration_error(np.concatenate([base[column], new[column]]), hits)
        for name, column in columns.items()
    }
