"""The difference of two methods that answered the same images, with its interval and p-value.

Two things are resampled, each as a whole and both crossed with each other: units (what images
show: motifs, single images or classes; a unit takes its images in all data sets with it) and seeds
(a seed takes its trainings on all data sets with it). Data sets stay. The difference is the sum of
a table of contributions, units by seeds, with the score made linear (H is not). For such a sum,
what drawing its rows and columns anew does to it is known without drawing (the infinitesimal
jackknife, to which a bootstrap converges), and is free of the noise of draws:

    variance = rows + max(0, columns - cells)

`rows` is that of the units' sums over seeds, `columns` that of the seeds' sums over units. Both
hold the chance by which single trainings answer single units, `cells`, so it is taken away once
(Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007; Cameron, Gelbach and Miller,
Journal of Business and Economic Statistics 29, 2011). Each part has a quantile of Student's t: a
few seeds show badly by how much seeds differ, and a few classes by how much classes do.
"""

from itertools import cycle
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Pair(NamedTuple):
    """What two methods answered to the same n images, each with S seeds.

    `units` (n,) and `seeds` (S,) are numbers of what is resampled: images, and runs, with the same
    number belong together, also across pairs. `ours` and `theirs` (S, n): which answers are right,
    or what else a mean is taken of.
    """

    units: np.ndarray
    seeds: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def accuracies(self) -> np.ndarray:
        """The means of ours and theirs, with each seed (%); (2, S)."""
        return 100 * np.stack([self.ours.mean(axis=1), self.theirs.mean(axis=1)])


Block = list[Pair]  # of one data set: one pair of a plain accuracy, else base and new


class Difference(NamedTuple):
    """Ours minus theirs in points, its 95% interval, and the p-value that belongs to it.

    p is below 0.05 where the interval does not hold zero.
    """

    value: float
    low: float
    high: float
    p: float


class Variance(NamedTuple):
    """That of the difference when units are resampled, and when seeds are; with their freedom."""

    units: float
    seeds: float
    units_freedom: float
    seeds_freedom: float

    def half(self, alpha: float) -> float:
        """Half of the interval that misses the truth with probability `alpha`."""
        from scipy.special import stdtrit

        by_units = stdtrit(self.units_freedom, 1 - alpha / 2) ** 2 * self.units
        by_seeds = stdtrit(self.seeds_freedom, 1 - alpha / 2) ** 2 * self.seeds
        return float(by_units + by_seeds) ** 0.5


def difference(blocks: list[Block], of_averages: bool = False, total: bool = False) -> Difference:
    """The difference of two methods.

    Args:
        blocks: one for each data set.
        of_averages: it is that of the averages over data sets; H is then that of the averages,
            else it is computed for each seed and averaged.
        total: the score is the sum of its means of base and new, not H.
    """
    means = np.mean([[pair.accuracies.mean(axis=1) for pair in block] for block in blocks], axis=0)
    linear = total or len(means) == 1
    if linear:
        ours, theirs = means.sum(axis=0)
    elif of_averages:
        ours, theirs = harmonic(*means)
    else:
        ours, theirs = harmonic(*(pair.accuracies for pair in blocks[0])).mean(axis=1)
    value = float(ours - theirs)
    slopes = np.ones_like(means) if linear else _slopes(means)
    found = _variance(blocks, slopes / len(blocks))
    half = found.half(1 - LEVEL)
    return Difference(value, value - half, value + half, _p(abs(value), found))


def harmonic(base: np.ndarray | float, new: np.ndarray | float) -> np.ndarray:
    """H, the harmonic mean; 0 where both are."""
    total = base + new
    return 2 * base * new / np.where(total == 0, 1, total)


def holm(p: list[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method, in the same order.

    Below 0.05 are those that can be called differences with a risk of 5% that any of them is none.
    """
    values = np.asarray(p)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    raised = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return adjusted.tolist()


def _slopes(means: np.ndarray) -> np.ndarray:
    """By how much H grows with each of the accuracies that it is made of; (2, 2)."""
    total = means.sum(axis=0)
    return 2 * (means[::-1] / np.where(total == 0, 1, total)) ** 2


def _variance(blocks: list[Block], slopes: np.ndarray) -> Variance:
    """Of the difference, whose score grows with each accuracy of each block by `slopes`."""
    pairs = [pair for block in blocks for pair in block]
    all_units = np.concatenate([pair.units for pair in pairs])
    places = np.repeat(np.arange(len(pairs)), [len(pair.units) for pair in pairs])
    _, first, rows = np.unique(all_units, return_index=True, return_inverse=True)
    seeds, columns = np.unique(np.concatenate([p.seeds for p in pairs]), return_inverse=True)
    U, S = len(first), len(seeds)
    cells, contributions, by_seed = [], [], np.zeros(S)
    unit_rows = np.split(rows, np.cumsum([len(pair.units) for pair in pairs])[:-1])
    seed_columns = np.split(columns, np.cumsum([len(pair.seeds) for pair in pairs])[:-1])
    for pair, (ours, theirs), row, column in zip(
        pairs, cycle(slopes), unit_rows, seed_columns, strict=False
    ):
        gains = 100 * (ours * pair.ours - theirs * pair.theirs) / pair.ours.size  # (S, n)
        by_seed[column] += gains.sum(axis=1) - gains.sum() / len(gains)
        cells.append((row + U * column[:, None]).ravel())
        contributions.append((gains - gains.mean(axis=1, keepdims=True)).ravel())
    # Units that are first seen in one place are draws of one kind, such as motifs of base classes.
    kind = places[first]
    freedom = np.maximum(np.bincount(kind) - 1, 1)
    table: np.ndarray = np.bincount(np.concatenate(cells), np.concatenate(contributions), U * S)
    table = table.reshape(S, U) * ((freedom + 1) / freedom)[kind] ** 0.5
    by_unit = table.sum(axis=0)
    units = np.bincount(kind, by_unit**2)
    by_chance = ((table - by_unit / S) ** 2).sum()
    seen = (by_seed**2).sum() - by_chance
    return Variance(
        units=units.sum(),
        seeds=max(0.0, seen) * S / max(S - 1, 1),
        units_freedom=units.sum() ** 2 / (units**2 / freedom).sum() if units.any() else 1,
        seeds_freedom=max(S - 1, 1),
    )


def _p(size: float, variance: Variance) -> float:
    """The probability of a difference of this size, or a larger one, were there none."""
    from scipy.optimize import brentq

    least = 1e-12
    if size <= variance.half(1):
        return 1.0
    if size >= variance.half(least):
        return least
    return float(brentq(lambda alpha: variance.half(alpha) - size, least, 1))
