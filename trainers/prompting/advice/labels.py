"""What out-of-fold answers say: a calibration, the least likely labels, confused classes.

Letters: N images, n of them labelled, K classes.
"""

from dataclasses import replace

import numpy as np
import torch

from ..record.calibration import Calibration, centre_and_classes, likeness
from .choice import Choice
from .fits import Space

MANY = 6  # classes from which one is left out: with fewer, the others are too far apart
LEFT_OUT = 100  # of them


def least_likely(choice: Choice) -> np.ndarray:
    """Return the labelled images as numbers below n, those with the least likely labels first.

    Images whose class no other fold has come last: they could not be answered.
    """
    own = choice.probabilities[np.arange(len(choice.labels)), choice.labels]
    order: np.ndarray = np.lexsort((own, ~choice.judged))
    return order


def calibration(choice: Choice, space: Space) -> Calibration:
    """Return the calibration by out-of-fold answers and cosines.

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
