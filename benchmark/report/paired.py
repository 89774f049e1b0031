"""Compute the difference of two methods on the same images, with its interval and p-value.

docs/metrics.md, Intervals, has the contributions of images.

Units and seeds are resampled, crossed with each other. A unit is a motif, a single image or a
class, with its images in all data sets; a seed comes with its trainings on all data sets. Data sets
are fixed. The difference, made linear (H is not), is the sum of a table of contributions, units by
seeds. The variance of such a sum when rows and columns are resampled has a closed form (the
infinitesimal jackknife, to which a bootstrap converges), without the noise of random draws:

    variance = columns + max(0, rows - cells)

`columns` is the variance of the seeds' sums over units, `rows` that of the units' sums over seeds.
Both contain the variance of single cells (a training's answers to a unit), `cells`, so it is
subtracted once (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007; Cameron,
Gelbach and Miller, Journal of Business and Economic Statistics 29, 2011), from the part of units:
few seeds estimate theirs so poorly that what remained would often be 0, and p < 0.05 err in up to
10% of draws. For the same reason each part has its own quantile of Student's t.
"""

from itertools import cycle
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
LEAST = 6  # units; no five that differ could have p below 0.05, even if all speak for one method


class Pair(NamedTuple):
    """The answers of two methods to the same n images, each with S seeds.

    Equal units and equal seeds are resampled together, also across pairs.
    """

    units: np.ndarray  # (n,) the number of each image's unit
    seeds: np.ndarray  # (S,) the seed of each run
    ours: np.ndarray  # (S, n) which answers are right, or any other quantity that is averaged
    theirs: np.ndarray  # (S, n) the same of the other method

    @property
    def accuracies(self) -> np.ndarray:
        """The means of ours and theirs with each seed (%), (2, S)."""
        return 100 * np.stack([self.ours.mean(axis=1), self.theirs.mean(axis=1)])


Block = list[Pair]  # one data set: a single pair for plain accuracy, else base and new


class Difference(NamedTuple):
    """Ours minus theirs in points, with its 95% interval and p-value.

    p is below 0.05 exactly where the interval excludes zero. It is None where no difference can be
    claimed: one seed where a seed matters, fewer than LEAST units that differ, or no variance.
    """

    value: float
    low: float
    high: float
    p: float | None
    differing: int  # units that the methods do not answer alike

    def cut(self) -> "Difference":
        """Return it with its interval cut where differences of accuracies end."""
        return self._replace(low=max(self.low, -100.0), high=min(self.high, 100.0))


class Variance(NamedTuple):
    """The variances of the difference by units and by seeds, with their degrees of freedom."""

    units: float
    seeds: float
    units_freedom: float
    seeds_freedom: float

    def half(self, alpha: float) -> float:
        """Return half the width of the interval with coverage 1 - `alpha`."""
        from scipy.special import stdtrit

        by_units = stdtrit(self.units_freedom, 1 - alpha / 2) ** 2 * self.units
        by_seeds = stdtrit(self.seeds_freedom, 1 - alpha / 2) ** 2 * self.seeds
        return float(by_units + by_seeds) ** 0.5


def difference(blocks: list[Block], trained: bool = True) -> Difference:
    """Compute the difference of two methods, of averages if there are several data sets.

    `trained` is False if neither method depends on the seed.
    """
    means = np.mean([[pair.accuracies.mean(axis=1) for pair in block] for block in blocks], axis=0)
    linear = len(means) == 1
    ours, theirs = means[0] if linear else harmonic(*means)
    value = float(ours - theirs)
    slopes = np.ones_like(means) if linear else _slopes(means)
    variance = _variance(blocks, slopes / len(blocks))
    half = round(variance.half(1 - LEVEL), 9)  # 0 where nothing varies
    pairs = [pair for block in blocks for pair in block]
    unlike = [pair.units[(pair.ours != pair.theirs).any(axis=0)] for pair in pairs]
    differing = len(np.unique(np.concatenate(unlike)))
    enough = not trained or min(len(pair.seeds) for pair in pairs) > 1
    p = _p(abs(value), variance) if enough and differing >= LEAST and half else None
    return Difference(value, value - half, value + half, p, differing)


def harmonic(base: np.ndarray | float, new: np.ndarray | float) -> np.ndarray:
    """Return H, the harmonic mean; 0 where both are 0."""
    total = base + new
    return 2 * base * new / np.where(total == 0, 1, total)


def holm(p: list[float]) -> list[float]:
    """Adjust p-values for their number by Holm's method; the order stays.

    Calling those below 0.05 differences errs in any of them with a probability of at most 5%.
    """
    values = np.asarray(p)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    raised = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return adjusted.tolist()


def _slopes(means: np.ndarray) -> np.ndarray:
    """Return the derivatives of H by base and new accuracy, (2, 2) as `means`."""
    total = means.sum(axis=0)
    return 2 * (means[::-1] / np.where(total == 0, 1, total)) ** 2


def _variance(blocks: list[Block], slopes: np.ndarray) -> Variance:
    """Return the variance of the difference; `slopes` are the metric's derivatives, (1 or 2, 2)."""
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
    # Units that first appear in one pair are draws of one kind, such as motifs of base classes.
    kind = places[first]
    freedom = np.maximum(np.bincount(kind) - 1, 1)
    table: np.ndarray = np.bincount(np.concatenate(cells), np.concatenate(contributions), U * S)
    table = table.reshape(S, U) * ((freedom + 1) / freedom)[kind] ** 0.5
    by_unit = table.sum(axis=0)
    units = np.bincount(kind, by_unit**2)
    by_chance = ((table - by_unit / S) ** 2).sum()
    of_seeds = S / max(S - 1, 1)
    return Variance(
        units=max(0.0, units.sum() - by_chance * of_seeds),
        seeds=(by_seed**2).sum() * of_seeds,
        units_freedom=units.sum() ** 2 / (units**2 / freedom).sum() if units.any() else 1,
        seeds_freedom=max(S - 1, 1),
    )


def _p(size: float, variance: Variance) -> float:
    """Return the probability of a difference of at least this size if the methods were equal."""
    from scipy.optimize import brentq

    least = 1e-12
    if size <= variance.half(1):
        return 1.0
    if size >= variance.half(least):
        return least
    return float(brentq(lambda alpha: variance.half(alpha) - size, least, 1))
