"""Labels: those that look wrong, and classes that are confused.

Letters: N images, n of them labelled, K classes, m the median number of labels of a class.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import softmax

from ..record.calibration import Calibration, centre_and_classes, fit_temperature, likeness
from .choice import FEW, TEMPERATURES, Choice, find_judged
from .fits import Space
from .statement import Trial

EXPECTED = 0.5  # correct labels that may be named as wrong ones
ROUNDS = 3  # of naming and the temperature without those named; more name right labels, too
MANY = 6  # classes from which one is left out: with fewer, the others are too far apart
LEFT_OUT = 100  # of them
SWAPPED, TRIALS, LEAST_SWAPS = 0.05, 4, 30  # share of labels swapped on purpose; how often; in all
# seconds of a processor for a fit, by its images, width and classes; the longest of all fits
COST, LONGEST = {"LPPlusPlus": 1.5e-8, "GDA": 1e-9, "CLAP": 3e-8}, 20.0


def suspicious(choice: Choice) -> np.ndarray:
    """Return the labelled images whose labels look wrong, worst first, as numbers below n.

    Those are named whose label has an out-of-fold probability below t, where t is the largest with
    which at most EXPECTED correct labels are expected among them: the sum of all probabilities
    below t. The temperature is that of the labels that are not named. With less than two labels a
    class, none is named, nor is a label without another one of its class.
    """
    y, named = choice.labels, np.empty(0, int)
    for _ in range(ROUNDS if choice.m >= 2 else 0):
        p = softmax(choice.best.logits / temperature(choice, named), axis=1)
        every = np.sort(p[choice.judged], axis=None)
        beyond = np.flatnonzero(np.cumsum(every) > EXPECTED)
        t = every[beyond[0]] if len(beyond) else 0
        before, named = named, np.flatnonzero(choice.judged & (p[np.arange(len(y)), y] < t))
        if np.array_equal(before, named):
            break
    own = choice.probabilities[named, y[named]]
    return named[own.argsort(kind="stable")]


def temperature(choice: Choice, left_out: np.ndarray) -> float:
    """Return the best temperature without some labelled images, such as those just named."""
    stays = np.setdiff1d(np.arange(len(choice.labels)), left_out)
    return fit_temperature(choice.best.logits[stays], choice.labels[stays], TEMPERATURES)[0]


def try_suspicious(
    choice: Choice,
    space: Space,
    named: np.ndarray,
    least: int = LEAST_SWAPS,
    longest: float = LONGEST,
) -> Trial | None:
    """Return how `suspicious` does where labels of this collection are swapped on purpose.

    Labels that are named are left out, and SWAPPED of the others swapped, TRIALS times at random
    and as often for the class that zero-shot CLIP finds likeliest besides. The worse way counts.
    Where fits take long, there are fewer trials, and then fewer folds.

    Args:
        choice: its best candidate is fitted again.
        space: of its CLIP.
        named: from `suspicious`.
        least: swapped labels in all trials; with fewer, None is returned.
        longest: seconds of a processor for all fits.
    """
    stays, best = np.setdiff1d(np.arange(len(choice.labels)), named), choice.best
    of_each = choice.labels, choice.rows, choice.fold, best.logits
    y, rows, fold, logits = (x[stays] for x in of_each)
    classes, counts = np.unique(y), np.bincount(y, minlength=len(choice.counts))
    able = np.flatnonzero(counts[y] >= FEW)  # so that classes stay in every fold
    number = min(round(SWAPPED * len(y)), len(able))
    shared, parts = space.span(rows), choice.parts
    of_fit = COST[best.method] * len(y) * shared.images.shape[1] * len(choice.counts)
    fits = int(longest / 2 / of_fit)  # of each way to swap
    trials, parts = min(TRIALS, max(1, fits // parts)), min(parts, fits)
    if not fits or 2 * trials * number < least:
        return None
    print("To try which labels look wrong, some are swapped in a copy (20 s at most)")
    besides = space.zero_shot()[rows]
    besides[:, counts == 0] = besides[np.arange(len(y)), y] = -np.inf
    found = []
    for likeliest in (False, True):
        counted = np.zeros(3, int)
        for seed in range(trials):
            rng, given, answers = np.random.default_rng(seed), y.copy(), logits.copy()
            swapped = rng.permutation(able)[:number]
            at = np.searchsorted(classes, y[swapped]) + rng.integers(1, len(classes), number)
            given[swapped] = classes[at % len(classes)]
            if likeliest:
                given[swapped] = besides[swapped].argmax(1)
            for part in range(parts):
                held = fold == part
                answers[held] = shared.logits(
                    best.method, rows[~held], given[~held], rows[held], **best.settings
                )
            again = replace(
                choice, candidates=[replace(best, logits=answers)], rows=rows, labels=given,
                fold=fold, judged=find_judged(given, fold),
                counts=np.bincount(given, minlength=len(counts)),
            )  # fmt: skip
            wrong, looks = (np.isin(np.arange(len(y)), x) for x in (swapped, suspicious(again)))
            counted += [(x & (fold < parts)).sum() for x in (wrong, looks, wrong & looks)]
        wrong, looked, both = counted.tolist()
        found.append(Trial(wrong, both / max(1, wrong), both / max(1, looked)))
    enough = sum(trial.swapped for trial in found) >= least
    return min(found, key=lambda trial: trial.right * trial.found) if enough else None


def calibration(choice: Choice, space: Space) -> Calibration:
    """Return the calibration by out-of-fold answers and cosines; labels that look wrong count, too.

    `space` is that of the CLIP that was chosen.
    """
    y, rows, fold = (torch.from_numpy(x) for x in (choice.labels, choice.rows, choice.fold))
    logits, z, t = torch.from_numpy(choice.best.logits), space.images[rows], choice.best.temperature
    cosines = torch.empty(len(y))
    for part in range(choice.parts):
        held = fold == part
        cosines[held] = likeness(z[held], *centre_and_classes(z[~held], y[~held], space.text))
    centre, classes = centre_and_classes(z, y, space.text)
    one = Calibration.fit(logits, y, t, cosines)
    apart = _strangers(z, y, space.text)
    return replace(one, effective=choice.effective, centre=centre, classes=classes, strangers=apart)


def _strangers(z: torch.Tensor, y: torch.Tensor, text: torch.Tensor) -> torch.Tensor | None:
    """Return likenesses of images whose class is left out in turn, rising; None if classes are few.

    Features z (n, D), labels y (n,), text features (K, D).
    """
    found, with_images = [], y.unique()
    if len(with_images) < MANY:
        return None
    for k in np.random.default_rng(0).permutation(with_images)[:LEFT_OUT].tolist():
        rest, others = y != k, torch.arange(len(text)) != k
        left = y[rest] - (y[rest] > k).long()
        found.append(likeness(z[~rest], *centre_and_classes(z[rest], left, text[others])))
    return torch.cat(found).sort().values


def confusions(choice: Choice) -> list[tuple[int, int, np.ndarray]]:
    """Return (class, answer, rows of the images) of wrong out-of-fold answers, most frequent first.

    Pairs of the same frequency are in the order of the classes.
    """
    answer, y = choice.best.logits.argmax(1), choice.labels
    wrong = np.flatnonzero(answer != y)
    pairs: dict[tuple[int, int], list[int]] = {}
    for i in wrong[np.lexsort((answer[wrong], y[wrong]))]:
        pairs.setdefault((int(y[i]), int(answer[i])), []).append(int(choice.rows[i]))
    ordered = sorted(pairs.items(), key=lambda item: -len(item[1]))
    return [(own, said, np.array(rows)) for (own, said), rows in ordered]
