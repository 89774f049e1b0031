"""What predictions are worth besides their accuracy. Needs no PyTorch."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

BINS = 15  # of the calibration error, as wide as each other


def metrics(arrays: Mapping[str, np.ndarray], classnames: Sequence[str]) -> dict:
    """Numbers of one evaluation.

    Args:
        arrays: as `recipe.predictions` reads them.
        classnames: of all classes, by label.

    Returns:
        `top5_accuracy`, `calibration_error` and `per_class_accuracy` in %, the last by class
        name (None for a class without images); `negative_log_likelihood` in nats.
    """
    label = arrays["label"]
    hits = arrays["prediction"] == label
    counts = np.bincount(label, minlength=len(classnames))
    right = np.bincount(label[hits], minlength=len(classnames))
    return {
        "top5_accuracy": 100 * float((arrays["top"] == label[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(arrays["probability"][:, 0], hits),
        "negative_log_likelihood": -float(arrays["label_log_probability"].mean(dtype=float)),
        "per_class_accuracy": {
            name: 100 * float(k / n) if n else None
            for name, k, n in zip(classnames, right, counts, strict=True)
        },
    }


def reliability(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, ...]:
    """Bins (0, 1/15], (1/15, 2/15], ... of the probability of what was predicted.

    Args:
        confidence: (n,), probabilities.
        hits: (n,), whether it was right.

    Returns:
        Of each bin the mean confidence, the accuracy (both from 0 to 1; 0 in an empty bin) and
        the number of images.
    """
    confidence = confidence.astype(float)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    some = np.maximum(counts, 1)
    means = [np.bincount(place, values, BINS) / some for values in (confidence, hits)]
    return (*means, counts)


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """The expected calibration error (%): the mean gap of confidence and accuracy over the bins."""
    mean, accuracy, counts = reliability(confidence, hits)
    return 100 * float((np.abs(mean - accuracy) * counts).sum() / counts.sum())


def detection(inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray]) -> dict:
    """Numbers of out-of-distribution detection, in %.

    Args:
        inside: by the name of a score, those of the run's own images, (n,).
        outside: the same of images of other classes, (m,).

    Returns:
        `auroc_SCORE` and `fpr95_SCORE` of each score; `images`, m.
    """
    found: dict[str, float] = {}
    for name, scores in inside.items():
        found[f"auroc_{name}"] = 100 * auroc(scores, outside[name])
        found[f"fpr95_{name}"] = 100 * fpr95(scores, outside[name])
    return found | {"images": len(outside["mcm"])}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of pairs whose inside score is the higher one, ties by half, from 0 to 1.

    Args:
        inside: (n,), scores of images whose classes are known.
        outside: (m,), of others.
    """
    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of outside scores that pass the highest threshold that 95% of the inside pass.

    Args: as `auroc`; from 0 to 1.
    """
    n = len(inside)
    threshold = np.sort(inside)[n - -(-95 * n // 100)]
    return float((np.asarray(outside) >= threshold).mean())
