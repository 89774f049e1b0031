"""What predictions are worth besides their accuracy. Needs no PyTorch."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from trainers.prompting.errors import UserError

BINS = 15  # of the calibration error, as wide as each other


def metrics(arrays: Mapping[str, np.ndarray], classnames: Sequence[str]) -> dict:
    """Numbers of one evaluation.

    Args:
        arrays: as `recipe.predictions` reads them.
        classnames: of all classes, by label.

    Returns:
        `top5_accuracy`, `calibration_error` and `per_class_accuracy` in %, the last by class
        name (None for a class without images); `negative_log_likelihood` in nats. With the columns
        that they need also, in %, `calibration_error_scaled`, after division by the temperature,
        and `joint_accuracy`, over base and new classes together.
    """
    label = arrays["label"]
    hits = arrays["prediction"] == label
    counts = np.bincount(label, minlength=len(classnames))
    right = np.bincount(label[hits], minlength=len(classnames))
    more = {}
    if "scaled_probability" in arrays:
        more["calibration_error_scaled"] = calibration_error(arrays["scaled_probability"], hits)
    if "joint_label" in arrays:
        joint_hits = arrays["joint_prediction"] == arrays["joint_label"]
        more["joint_accuracy"] = 100 * float(joint_hits.mean())
    return {
        "top5_accuracy": 100 * float((arrays["top"] == label[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(arrays["probability"][:, 0], hits),
        "negative_log_likelihood": -float(arrays["label_log_probability"].mean(dtype=float)),
        "per_class_accuracy": {
            name: 100 * float(k / n) if n else None
            for name, k, n in zip(classnames, right, counts, strict=True)
        },
        **more,
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

    Raises:
        UserError: a side has no images.
    """
    n, m = _sizes(inside, outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of outside scores that pass the highest threshold that 95% of the inside pass.

    Args, raises: as `auroc`; from 0 to 1.
    """
    n, _ = _sizes(inside, outside)
    threshold = np.sort(inside)[n - -(-95 * n // 100)]
    return float((np.asarray(outside) >= threshold).mean())


def _sizes(*sides: np.ndarray) -> list[int]:
    """The numbers of scores.

    Raises:
        UserError: one is 0.
    """
    if not all(sizes := [len(side) for side in sides]):
        raise UserError("Scores of two sets of images are compared, but one set has no images")
    return sizes


def openworld_auc(
    base_score: np.ndarray, base_right: np.ndarray, new_score: np.ndarray, new_right: np.ndarray
) -> float:
    """OpenworldAUC (Hua et al., ICML 2025, arXiv:2505.05180), from 0 to 1.

    The share of pairs of a base and a new image in which both are classified rightly in their
    halves and the base image has the higher score; equal scores count half.

    Args:
        base_score: (n,), how much images of base classes look like such.
        base_right: (n,), whether they are classified rightly among base classes.
        new_score: (m,), the same score of images of new classes.
        new_right: (m,), whether they are classified rightly among new classes.

    Raises:
        UserError: there are no images of base classes, or of new ones.
    """
    n, m = _sizes(base_score, new_score)
    base, new = base_score[base_right.astype(bool)], new_score[new_right.astype(bool)]
    if not len(base) or not len(new):
        return 0.0
    return auroc(base, new) * len(base) * len(new) / (n * m)


def joint_metrics(
    base: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> dict[str, float] | None:
    """Numbers of base and new classes together, of the two evaluations of one training.

    Args:
        base: what was said of the test images of base classes, as `recipe.predictions` reads it.
        new: the same of new classes.

    Returns:
        In %, of all images over all classes: `joint_accuracy`, `joint_accuracy_base` and
        `joint_accuracy_new` of one half's images, `calibration_error`, `calibration_error_scaled`
        (not without temperature); and `openworld_auc`, `auroc` of base against new images by the
        probability of a base class. None where an evaluation has no such columns.

    Raises:
        UserError: these are not one evaluation of base classes and one of new ones.
    """
    if "joint_label" not in base or "joint_label" not in new:
        return None
    if base["joint_label"].max() >= new["joint_label"].min():
        raise UserError(
            "The classes of base and new images overlap: give the predictions of a run on base "
            "classes first, and of one on the new classes of the same data set second"
        )
    right = [side["joint_prediction"] == side["joint_label"] for side in (base, new)]
    own = [side["prediction"] == side["label"] for side in (base, new)]
    scores = base["base_probability"], new["base_probability"]
    hits = np.concatenate(right)
    found = {
        "joint_accuracy": 100 * float(hits.mean()),
        "joint_accuracy_base": 100 * float(right[0].mean()),
        "joint_accuracy_new": 100 * float(right[1].mean()),
        "openworld_auc": 100 * openworld_auc(scores[0], own[0], scores[1], own[1]),
        "auroc": 100 * auroc(*scores),
    }
    columns = {"calibration_error": "joint_probability"}
    if "joint_scaled_probability" in base and "joint_scaled_probability" in new:
        columns["calibration_error_scaled"] = "joint_scaled_probability"
    return found | {
        name: calibration_error(np.concatenate([base[column], new[column]]), hits)
        for name, column in columns.items()
    }
