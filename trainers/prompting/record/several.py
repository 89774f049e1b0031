"""Measures of images with several labels: average precision, precision and recall, the jackknife.

docs/metrics.md defines them. Letters: n images, K classes. Labels (n, K) are 1 (present), 0
(absent) or -1 (unknown, which is left out). Needs no PyTorch.
"""

from typing import NamedTuple

import numpy as np

from ..errors import need

LEAST = 200  # images; with fewer, too few intervals of the jackknife hold the truth
TOPS = (3, 5)
SHARES = ("cp", "cr", "op", "or", "of1", "cf1_mean", "cf1_of_means")  # of `precision_recall`


class Ranking(NamedTuple):
    """The m images of which a class is known, best first; equal scores are one threshold."""

    order: np.ndarray  # (m,) their numbers
    positive: np.ndarray  # (m,) True where the class is present
    first: np.ndarray  # (m,) the place at which the threshold of each begins
    found: np.ndarray  # (m,) positives at its threshold or above
    taken: np.ndarray  # (m,) images at its threshold or above


def ranking(label: np.ndarray, score: np.ndarray) -> Ranking:
    """Rank the images of one class by labels (n,) and scores (n,)."""
    known = np.flatnonzero(label >= 0)
    order = known[np.argsort(-score[known].astype(float), kind="stable")]
    sorted_scores, positive = score[order], label[order] == 1
    begins = np.r_[True, sorted_scores[1:] != sorted_scores[:-1]][: len(order)]
    places = np.flatnonzero(begins)
    threshold = np.cumsum(begins) - 1
    ends = np.r_[places[1:], len(order)] - 1
    found = np.cumsum(positive)[ends]
    return Ranking(order, positive, places[threshold], found[threshold], ends[threshold] + 1)


def average_precision(label: np.ndarray, score: np.ndarray) -> float:
    """Return the average precision of one class, from 0 to 1; NaN without a positive.

    Examples:
        >>> label, score = np.array([1, 0, 1, -1, 0]), np.array([3, 2, 1, 9, 1])
        >>> average_precision(label, score)  # 1 of 1, then 2 of 4: the last two are tied
        0.75
    """
    r = ranking(label, score)
    return float((r.found / r.taken)[r.positive].mean()) if r.positive.any() else np.nan


def average_precisions(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (K,), from 0 to 1; NaN without a positive."""
    return np.array([average_precision(*pair) for pair in zip(label.T, score.T, strict=True)])


def left_out(label: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the average precision of one class, and that without each of the images, (n,).

    Without an image, thresholds above its own stay as they are, and those from its own on have an
    image less; sums over positives from a place on give all n in one pass.
    """
    r = ranking(label, score)
    P = int(r.positive.sum())
    precision, zero = np.where(r.positive, r.found / r.taken, 0), np.zeros(1)
    above = np.r_[zero, np.cumsum(precision)][r.first]
    rest = np.maximum(r.taken - 1, 1)

    def below(shares):
        sums = np.r_[zero, np.cumsum(np.where(r.positive, shares, 0))]
        return sums[-1] - sums[r.first]

    of_negative, of_positive = r.found / rest, (r.found - 1) / rest
    value = precision.sum() / P if P else np.nan
    without = np.full(len(label), value)
    with np.errstate(invalid="ignore"):  # nothing is left of one positive, or of none
        without[r.order] = np.where(
            r.positive,
            (above + below(of_positive) - of_positive) / (P - 1 or np.nan),
            (above + below(of_negative)) / (P or np.nan),
        )
    return float(value), without


def contributions(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return what each image adds to mAP, (n,): their mean is mAP, from 0 to 1.

    They are the pseudo-values of the exact jackknife, moved by its bias, so that the variance of
    their mean is the jackknife's. O(K n log n). Raises UserError where intervals would be wrong.
    """
    n, present = len(label), (label == 1).any(axis=0)
    need(
        n >= LEAST,
        f"mAP of {n:,} images has no interval, as too few such intervals would hold the truth: "
        f"take {LEAST} images or more",
    )
    lacking = int((~present).sum())
    need(
        not lacking,
        f"mAP has no interval, as {lacking} of {len(present)} classes have no test image: leave "
        "them out, or add images",
    )
    value, total, counted = 0.0, np.zeros(n), np.zeros(n)
    for pair in zip(label.T, score.T, strict=True):
        of_class, without = left_out(*pair)
        value += of_class / len(present)
        counted += ~np.isnan(without)
        total += np.nan_to_num(without)
    gains = (n - 1) * (value - total / counted)
    return value + gains - gains.mean()


def mean_interval(label: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of mAP for other images, from 0 to 1; raises as `contributions`."""
    from scipy.special import stdtrit  # slow to load

    gains = contributions(label, score)
    half = stdtrit(len(gains) - 1, 0.975) * gains.std(ddof=1) / len(gains) ** 0.5
    return max(0.0, float(gains.mean() - half)), min(1.0, float(gains.mean() + half))


def precision_recall(label: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Return SHARES, in %, of classes chosen for images, bool (n, K).

    `c` are means over the classes with a positive, `o` are over all labels together. A class that
    is never chosen has precision 0.
    """
    right = ((label == 1) & chosen).sum(axis=0)
    said, true = ((label >= 0) & chosen).sum(axis=0), (label == 1).sum(axis=0)
    some = true > 0
    f1 = 2 * right / np.maximum(said + true, 1)
    cp, cr = (float((right / np.maximum(of, 1))[some].mean()) for of in (said, true))
    op, or_ = (float(right.sum() / max(of.sum(), 1)) for of in (said, true))
    shares = (cp, cr, op, or_, _f1(op, or_), float(f1[some].mean()), _f1(cp, cr))
    return {name: 100 * share for name, share in zip(SHARES, shares, strict=True)}


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def highest(label: np.ndarray, score: np.ndarray, number: int) -> np.ndarray:
    """Return which classes have the highest scores of an image among those known, bool (n, K)."""
    known = np.where(label >= 0, score.astype(float), -np.inf)
    order = np.argsort(-known, axis=1, kind="stable")[:, :number]
    chosen = np.zeros(label.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & (label >= 0)


def measures(
    label: np.ndarray, logit: np.ndarray, decides: bool, difficult: bool = False
) -> dict[str, float]:
    """Compute the measures of one evaluation, in %.

    Args:
        label: (n, K), some of it 1.
        logit: (n, K), finite.
        decides: True if sigmoids of the logits are probabilities; else there is no threshold.
        difficult: True if unknown classes are those of difficult objects only, which published
            numbers count as absent.

    Returns:
        `map`, over the `classes` minus `classes_without_positives`; `positive_share`, the mean
        over these classes of the share of positives, which is about what mAP guessing has;
        `map_difficult_absent` if asked; SHARES at probability 0.5 if it decides; and OP, OR, OF1
        of the TOPS classes with the highest logits.
    """
    precisions = average_precisions(label, logit)
    some = ~np.isnan(precisions)
    positives, known = (label[:, some] == 1).sum(axis=0), (label[:, some] >= 0).sum(axis=0)
    numbers = {
        "map": 100 * float(precisions[some].mean()),
        "classes_without_positives": int((~some).sum()),
        "positive_share": 100 * float((positives / known).mean()),
    }
    if difficult:
        absent = average_precisions(np.maximum(label, 0), logit)
        numbers["map_difficult_absent"] = 100 * float(absent[some].mean())
    if decides:
        numbers |= precision_recall(label, logit > 0)
    for k in TOPS:
        shares = precision_recall(label, highest(label, logit, k))
        numbers |= {f"top{k}_{name}": shares[name] for name in ("op", "or", "of1")}
    return numbers
