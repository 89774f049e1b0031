"""The difference of two methods that answered the same images, with its interval and its test.

The interval is that of a bootstrap: images are drawn with replacement, and so are seeds (that is
trainings), for both methods alike. The two are drawn apart, and what each does is added. That two
trainings answer single images differently is in the draws of images; those of seeds have only the
part of the variance between seeds that so few images do not explain. (Drawn together, it would
count three times: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007.) The test
swaps the answers of the two methods image by image, those of all seeds together: were the methods
alike, that would change nothing.
"""

import zlib
from functools import cached_property
from typing import NamedTuple

import numpy as np

REPLICATES = 5_000  # draws of the bootstrap, and swaps of the test
EXACT = 12  # with so few images that tell two methods apart, every swap is tried
LEVEL = 0.95


class Accuracies(NamedTuple):
    """Of both methods (%), each (R, S): R draws, S seeds."""

    ours: np.ndarray
    theirs: np.ndarray


class Pair:
    """What two methods answered to the same images.

    Args:
        name: of the images; it decides how they are drawn.
        ours, theirs: (S, n), whether an answer was right, of S seeds and n images.
    """

    def __init__(self, name: str, ours: np.ndarray, theirs: np.ndarray):
        self.name, self.n = name, ours.shape[1]
        # Images that all runs answer alike are one kind, of which only the number counts.
        kinds, self.count = np.unique(np.concatenate([ours, theirs]), axis=1, return_counts=True)
        self.ours, self.theirs = np.split(kinds.astype(float), 2)  # (S, kinds)

    @property
    def seeds(self) -> int:
        return len(self.ours)

    @property
    def telling(self) -> np.ndarray:
        """Of each image that some seed answers otherwise with the other method, its kind."""
        kinds = np.flatnonzero((self.ours != self.theirs).any(axis=0))
        return np.repeat(kinds, self.count[kinds])

    @cached_property
    def observed(self) -> Accuracies:
        """The accuracies as they are, R = 1."""
        return self._accuracies(self.count[None], 0 * self.count[None])

    @cached_property
    def resampled(self) -> Accuracies:
        """The accuracies on images drawn with replacement."""
        drawn = _rng(f"draw {self.name}").multinomial(self.n, self.count / self.n, REPLICATES)
        return self._accuracies(drawn, 0 * drawn)

    @cached_property
    def swapped(self) -> Accuracies:
        """The accuracies after a random half of the images has its answers swapped."""
        swapped = _rng(f"swap {self.name}").binomial(self.count, 0.5, (REPLICATES, len(self.count)))
        return self._accuracies(self.count - swapped, swapped)

    def _accuracies(self, kept: np.ndarray, swapped: np.ndarray) -> Accuracies:
        """From the numbers of images of each kind as they are, and swapped; (R, kinds) each."""
        ours = kept @ self.ours.T + swapped @ self.theirs.T
        theirs = kept @ self.theirs.T + swapped @ self.ours.T
        return Accuracies(100 / self.n * ours, 100 / self.n * theirs)


class Block(NamedTuple):
    """Two methods on one data set.

    `training` names what was trained with each seed: blocks of the same trainings draw the same
    seeds. `pairs` is one pair of a plain accuracy, and base and new of H.
    """

    training: str
    pairs: list[Pair]

    @property
    def seeds(self) -> int:
        return self.pairs[0].seeds


class Difference(NamedTuple):
    """Ours minus theirs in points, its 95% interval, and p of the two-sided permutation test."""

    value: float
    low: float
    high: float
    p: float


def difference(blocks: list[Block], of_averages: bool = False) -> Difference:
    """The difference of two methods.

    Args:
        blocks: one for each data set.
        of_averages: it is that of the averages over data sets; H is then that of the averages,
            else it is computed for each seed and averaged.
    """
    pairs = [pair for block in blocks for pair in block.pairs]

    def of(found: list[Accuracies], weights: list[np.ndarray] | None = None) -> np.ndarray:
        return _difference(blocks, found, weights or _equal(blocks), of_averages)

    observed = [pair.observed for pair in pairs]
    value = of(observed)[0]
    by_images = of([pair.resampled for pair in pairs])
    by_seeds = of(observed, _drawn(blocks, _share_of_seeds(blocks, of_averages)))
    low, high = np.quantile(by_images + by_seeds - value, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    exact = sum(len(pair.telling) for pair in pairs) <= EXACT
    swapped = _all_swaps(pairs) if exact else [pair.swapped for pair in pairs]
    extreme = np.abs(of(swapped)) >= abs(value) - 1e-9
    p = extreme.mean() if exact else (1 + extreme.sum()) / (1 + len(extreme))
    return Difference(float(value), float(low), float(high), float(p))


def harmonic(base: np.ndarray, new: np.ndarray) -> np.ndarray:
    """H, the harmonic mean; 0 where both are."""
    total = base + new
    return 2 * base * new / np.where(total == 0, 1, total)


def _difference(blocks, accuracies, weights, of_averages) -> np.ndarray:
    """Ours minus theirs (R,), from the accuracies on each pair of the blocks."""
    ours, theirs = (
        _score(blocks, [found[i] for found in accuracies], weights, of_averages) for i in (0, 1)
    )
    return ours - theirs


def _each_seed(blocks, accuracies, of_averages) -> np.ndarray:
    """Ours minus theirs of each seed by itself (S, R), of blocks of the same trainings."""
    alone = [[one] * len(blocks) for one in np.eye(blocks[0].seeds)[:, None]]
    return np.stack([_difference(blocks, accuracies, w, of_averages) for w in alone])


def _score(blocks, accuracies, weights, of_averages) -> np.ndarray:
    """What is compared (R,), from one method's accuracies (R, S) on each pair of the blocks."""
    columns = len(blocks[0].pairs)
    by_block = [accuracies[i : i + columns] for i in range(0, len(accuracies), columns)]
    if of_averages:
        means = [
            sum((found[column] * w).sum(1) for found, w in zip(by_block, weights, strict=True))
            / len(blocks)
            for column in range(columns)
        ]
        return harmonic(*means) if columns == 2 else means[0]
    (found,), (w,) = by_block, weights
    return ((harmonic(*found) if columns == 2 else found[0]) * w).sum(1)


def _equal(blocks: list[Block]) -> list[np.ndarray]:
    """The same weight for every seed, (1, S) for each block."""
    return [np.full((1, block.seeds), 1 / block.seeds) for block in blocks]


def _drawn(blocks: list[Block], share: float) -> list[np.ndarray]:
    """The weight of each seed in each draw, (R, S) for each block; a row adds up to 1.

    A few seeds drawn with replacement show only (S - 1) / S of the variance between seeds, only
    `share` of that is the seeds' own, and few seeds tell it badly, which Student's t allows for:
    their weights are stretched about 1 / S accordingly.
    """
    from scipy.special import ndtri, stdtrit

    freedom = sum({block.training: block.seeds - 1 for block in blocks}.values())
    high = (1 + LEVEL) / 2
    wider = stdtrit(freedom, high) / ndtri(high) if freedom else 1
    weights = []
    for block in blocks:
        count = block.seeds
        rng = _rng(f"seeds {block.training}")
        drawn = rng.multinomial(count, np.full(count, 1 / count), REPLICATES) / count
        stretch = wider * (share * count / max(count - 1, 1)) ** 0.5
        weights.append(1 / count + (drawn - 1 / count) * stretch)
    return weights


def _share_of_seeds(blocks: list[Block], of_averages: bool) -> float:
    """The part of the variance between seeds that other images would not take away, 0 to 1."""
    total = by_images = 0.0
    for training in dict.fromkeys(block.training for block in blocks):
        members = [block for block in blocks if block.training == training]
        pairs = [pair for block in members for pair in block.pairs]
        count = members[0].seeds
        if count > 1:
            observed = _each_seed(members, [pair.observed for pair in pairs], of_averages)
            resampled = _each_seed(members, [pair.resampled for pair in pairs], of_averages)
            total += observed.var(ddof=1)
            by_images += (resampled - resampled.mean(axis=0)).var(axis=1).sum() / (count - 1)
    return max(0.0, 1 - by_images / total) if total else 0.0


def _all_swaps(pairs: list[Pair]) -> list[Accuracies]:
    """The accuracies of every pair after each choice of images to swap."""
    total = sum(len(pair.telling) for pair in pairs)
    chosen = np.arange(2**total)[:, None] >> np.arange(total) & 1  # (2^total, images)
    found, start = [], 0
    for pair in pairs:
        kinds = pair.telling
        swapped = chosen[:, start : start + len(kinds)]
        gain = 100 / pair.n * swapped @ (pair.theirs - pair.ours)[:, kinds].T
        found.append(Accuracies(pair.observed.ours + gain, pair.observed.theirs - gain))
        start += len(kinds)
    return found


def _rng(name: str) -> np.random.Generator:
    """The same random numbers for a name each time."""
    return np.random.default_rng(zlib.crc32(name.encode()))
