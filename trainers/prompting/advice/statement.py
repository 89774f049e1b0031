"""The statement about the method that was chosen: its accuracy, and what was seen of it.

Letters: n labelled images, K classes, m the median number of labels of a class.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax

from ..record.metrics import wilson
from .choice import FEW, Choice
from .fits import Space
from .folds import folds

Z = 2.33  # of the interval
RESAMPLES = 300  # of the groups, for the accuracy
DRAWS = 5  # parts of the labels for each point of the curve
LEAST = 2  # labels a class for a statement about accuracy


def least_share(p: float, n: float) -> float:
    """Return the lower end of Wilson's interval of a share p of n.

    Examples:
        >>> round(least_share(147 / 152, 152), 3)
        0.914
    """
    return wilson(p, n, Z)[0]


def expect_accuracy(choice: Choice) -> float:
    """Return the accuracy to expect of the choice: BBC-CV (Tsamardinos et al., 2018).

    The share of right answers of the best of several candidates is too high. So groups of images
    are drawn with replacement, many times: the best on those drawn is measured on the others.
    """
    y, every = choice.labels, np.arange(len(choice.labels))
    _, group = np.unique(choice.groups, return_inverse=True)
    G, right, merit = int(group.max()) + 1, [], []
    for c in choice.candidates:
        hits = c.logits.argmax(1) == y
        log_p = log_softmax(c.logits / c.temperature, axis=1)[every, y]
        right.append(np.bincount(group, hits, G))
        # 1e-6: likelihood decides between candidates that are right as often
        merit.append(np.bincount(group, log_p if choice.blind else hits + 1e-6 * log_p, G))
    sizes, hits = np.bincount(group, minlength=G), np.array(right)  # (G,), (candidates, G)
    drawn = np.random.default_rng(0).multinomial(G, np.full(G, 1 / G), RESAMPLES)
    best, rest = (drawn @ np.array(merit).T).argmax(1), drawn == 0
    tested = rest @ sizes
    shares = (rest * hits[best]).sum(1)[tested > 0] / tested[tested > 0]
    return float(shares.mean())


@dataclass(frozen=True)
class Curve:
    """Accuracies of a method that is fitted to parts of the labels, on the others."""

    n: tuple[int, ...]  # labels that it was fitted to, rising
    accuracy: tuple[float, ...]  # with each of them


def accuracy_curve(space: Space, choice: Choice) -> Curve | None:
    """Return the curve of the best candidate with 1/4, 1/2 and all but a fold of the labels.

    None with less than FEW labels a class, or a class without labels. `space` is that of its CLIP.
    """
    y, rows, best, n = choice.labels, choice.rows, choice.best, len(choice.labels)
    if choice.m < FEW or not choice.counts.all():
        return None
    shared, sizes, right = space.span(rows), [], []
    for parts in (4, 2):
        hits = used = 0
        for seed in range(DRAWS):
            part = folds(y, choice.groups, parts, seed) == 0
            few, rest = rows[part], rows[~part]
            logits = shared.logits(best.method, few, y[part], rest, **best.settings)
            hits, used = hits + int((logits.argmax(1) == y[~part]).sum()), used + int(part.sum())
        sizes.append(round(used / DRAWS))
        right.append(hits / (DRAWS * n - used))
    sizes.append(round(n * (choice.parts - 1) / choice.parts))
    return Curve(tuple(sizes), (*right, best.right / n))


@dataclass(frozen=True, eq=False)
class Statement:
    """What can be said about the best candidate, trained on all labels."""

    choice: Choice
    curve: Curve | None = None

    @property
    def silent(self) -> str:
        """The reason why nothing is said about accuracy, or an empty text."""
        if self.choice.m < LEAST:
            return "Fewer than two labels a class say nothing about accuracy"
        return ""

    @property
    def at_least(self) -> bool:
        """True if only the lower end can be said, as folds have far fewer labels than all."""
        return self.choice.m < FEW

    @cached_property
    def accuracy(self) -> tuple[float, float]:
        """The accuracy that is expected, and the lower end of its interval."""
        expected = expect_accuracy(self.choice)
        return expected, least_share(expected, self.choice.effective)

    def sentences(self) -> list[str]:
        """Return the sentences: the advice first, then what would make it false."""
        choice, best = self.choice, self.choice.best
        n, lacking = len(choice.labels), int((choice.counts == 0).sum())
        lines = [f"Take {best.method} on {best.clip}."]
        if self.silent:
            lines.append(f"{self.silent}: zero-shot is right on {best.zero_shot:,} of {n:,}.")
        else:
            lines[0] = lines[0][:-1] + (
                f": right on {best.right:,} of {n:,} labelled images that it had not seen."
            )
            about, low = self.accuracy
            say = "" if self.at_least else f"about {100 * about:.0f}%, "
            of = f"{len(choice.counts) - lacking} classes{' that have labels' * bool(lacking)}"
            lines.append(
                f"Trained on all of them: {say}at least {math.floor(100 * low)}%, on photographs "
                f"like these, of these {of} (zero-shot {100 * best.zero_shot / n:.0f}%)."
            )
        most = max(choice.candidates, key=lambda c: c.zero_shot)
        if not self.silent and most.zero_shot > best.right:
            lines.append(
                f"Zero-shot {most.clip} is right on more of these: {most.zero_shot:,} of {n:,}."
            )
        if self.curve and not self.silent and not self.at_least:
            half, all_but_one = (f"{100 * x:.0f}%" for x in self.curve.accuracy[1:])
            used = f"{1 - 1 / choice.parts:.0%}"
            lines.append(
                f"With 50% of these labels it was right on {half}, with {used} on {all_but_one}."
            )
        if not self.silent:
            lines.append(
                "The accuracy does not hold for other places or cameras, nor for images in series "
                "that are not marked."
            )
        if lacking:
            are = ("class has", "it") if lacking == 1 else ("classes have", "them")
            lines.append(f"{lacking} {are[0]} no label, so nothing is known of {are[1]}.")
        return lines
