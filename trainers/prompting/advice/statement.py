"""The statement about the method that was chosen: its accuracy, and what was seen of it.

Letters: n labelled images, K classes, m the median number of labels of a class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax

from ..images.class_folders import some
from ..record.metrics import wilson
from .choice import FEW, Choice
from .fits import Space
from .folds import folds, of_one_group

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


def expect_accuracy(
    choice: Choice, right: np.ndarray | None = None, counted: np.ndarray | None = None
) -> float:
    """Return the accuracy to expect of the choice: BBC-CV (Tsamardinos et al., 2018).

    The share of right answers of the best of several candidates is too high. So groups of images
    are drawn with replacement, many times: the best on those drawn is measured on the others.

    Args:
        choice: of C candidates.
        right: (C, n), the answers that are measured; by default, those by which they were compared.
        counted: (n,), what each of them counts for; by default, alike.
    """
    y, every = choice.labels, np.arange(len(choice.labels))
    _, group = np.unique(choice.groups, return_inverse=True)
    G, shown, merit = int(group.max()) + 1, [], []
    for i, c in enumerate(choice.candidates):
        hits = c.logits.argmax(1) == y
        log_p = log_softmax(c.logits / c.temperature, axis=1)[every, y]
        measured = hits if right is None else right[i]
        shown.append(np.bincount(group, measured if counted is None else measured * counted, G))
        # 1e-6: likelihood decides between candidates that are right as often
        merits = log_p if choice.blind else choice.weights * (hits + 1e-6 * log_p)
        merit.append(np.bincount(group, merits, G))
    sizes = np.bincount(group, counted, G)  # (G,); `shown` is (C, G)
    drawn = np.random.default_rng(0).multinomial(G, np.full(G, 1 / G), RESAMPLES)
    best, rest = (drawn @ np.array(merit).T).argmax(1), drawn == 0
    tested = rest @ sizes
    shares = (rest * np.array(shown)[best]).sum(1)[tested > 0] / tested[tested > 0]
    return float(shares.mean())


@dataclass(frozen=True)
class Curve:
    """Accuracies of a method that is fitted to parts of the labels, on the others."""

    n: tuple[int, ...]  # labels that it was fitted to, rising
    accuracy: tuple[float, ...]  # with each of them


def accuracy_curve(space: Space, choice: Choice) -> Curve | None:
    """Return the curve of the best candidate with 1/4, 1/2 and all but a fold of the labels.

    None with less than FEW labels a class, a class without labels, or labels in series. `space` is
    that of its CLIP.
    """
    y, rows, best, n = choice.labels, choice.rows, choice.best, len(choice.labels)
    if choice.m < FEW or not choice.counts.all() or choice.in_series:
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
    unanswered: Sequence[str] = ()  # classes without labels, which were left out

    @property
    def silent(self) -> str:
        """The reason why nothing is said about accuracy, or an empty text."""
        if self.choice.m < LEAST:
            return "Fewer than two labels a class say nothing about accuracy"
        return ""

    @cached_property
    def accuracy(self) -> float | None:
        """The accuracy to expect of images that come as the labels did; None where nothing is said.

        That is below FEW labels a class where some are of one series: folds have far fewer labels
        than all, and in a series they are no lower limit.
        """
        choice = self.choice
        if self.silent or (choice.in_series and choice.m < FEW):
            return None
        plain = [c.plain for c in choice.candidates]
        divided = None if any(hits is None for hits in plain) else np.array(plain)
        return expect_accuracy(choice, divided)

    @cached_property
    def of_others(self) -> float | None:
        """The accuracy to expect of images of other series, if labels are in series.

        Each series counts once, and none whose class has no other.
        """
        choice = self.choice
        if self.accuracy is None or not choice.in_series:
            return None
        _, number, sizes = np.unique(choice.series, return_inverse=True, return_counts=True)
        counted = ~of_one_group(choice.series, choice.labels) / sizes[number]
        return expect_accuracy(choice, counted=counted) if counted.any() else None

    @cached_property
    def least(self) -> float | None:
        """The lower end of the interval of `accuracy`, where no series has two labels."""
        if self.accuracy is None or self.choice.in_series:
            return None
        return least_share(self.accuracy, self.choice.effective)

    def sentences(self) -> list[str]:
        """Return the sentences: the advice first, then what would make it false."""
        choice, best, y = self.choice, self.choice.best, self.choice.labels
        n, lacking = len(y), int((choice.counts == 0).sum())
        lines = [f"Take {best.method} on {best.clip}."]
        if self.silent:
            lines.append(f"{self.silent}: zero-shot is right on {best.zero_shot:,} of {n:,}.")
        else:
            lines[0] = lines[0][:-1] + (
                f": right on {best.right:,} of {n:,} labelled images that it had not seen."
            )
            if said := self._percents():
                of = f"{len(choice.counts) - lacking} classes{' that have labels' * bool(lacking)}"
                lines.append(f"Trained on all of them: {said}, of these {of}.")
            counts = choice.counts[choice.counts > 0]
            hits = best.logits.argmax(1) == y
            mean = np.average(hits, weights=1 / choice.counts[y])
            lines.append(
                f"The mean over classes was {100 * mean:.0f}%; zero-shot was right on "
                f"{100 * best.zero_shot / n:.0f}%, and the most frequent class each time would be "
                f"on {100 * counts.max() / n:.0f}%."
            )
        most = max(choice.candidates, key=lambda c: c.zero_shot)
        if not self.silent and most.zero_shot > best.right:
            lines.append(
                f"Zero-shot {most.clip} is right on more of these: {most.zero_shot:,} of {n:,}."
            )
        if self.curve and not self.silent and choice.m >= FEW:
            half, all_but_one = (f"{100 * x:.0f}%" for x in self.curve.accuracy[1:])
            used = f"{1 - 1 / choice.parts:.0%}"
            lines.append(
                f"With 50% of these labels it was right on {half}, with {used} on {all_but_one}."
            )
        if not self.silent:
            lines.append(
                "The accuracy does not hold for other places or cameras. It is too high if some of "
                "these images show the same thing without looking alike, unless a table's `group` "
                "joins them."
            )
        if lacking:
            are = ("class has", "it") if lacking == 1 else ("classes have", "them")
            lines.append(f"{lacking} {are[0]} no label, so nothing is known of {are[1]}.")
        if self.unanswered:
            lines.append(f"Without labels, and so never answered: {some(self.unanswered)}.")
        return lines

    def _percents(self) -> str:
        """Return what is said of the accuracy, or an empty text."""
        if self.accuracy is None:
            return ""
        about = f"about {100 * self.accuracy:.0f}%"
        if self.least is not None:
            about = f"{about}, " * (self.choice.m >= FEW)
            about += f"at least {math.floor(100 * self.least)}%"
        said = f"{about} if new images come as these labels did"
        if self.of_others is not None:
            said += f", about {100 * self.of_others:.0f}% if they are of other series"
        return said
