"""Folds of labelled images: the same for all CLIPs, equally many of every class in each.

Letters: N images, n of them labelled, K classes, m the median number of labels of a class.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ..errors import need
from .fits import Space

MOST = 5  # folds
NEAR = 0.85  # cosine of near-copies
CHUNK = 1024  # rows that are compared at once


def near_copies(spaces: Sequence[Space], rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the number of the group of each labelled image, (n,): near-copies have the same.

    Near-copies are joined by pairs of one class whose centred cosine, the mean over the CLIPs, is
    NEAR or more: one of another class makes no answer better.

    Args:
        spaces: under each CLIP, of N images, whose mean is the centre.
        rows: (n,), the labelled images.
        labels: theirs, (n,), or (n, K) of several: then one in common is enough.
    """
    each, pairs = [], [np.empty((0, 2), int)]
    for space in spaces:
        z = F.normalize(space.images.float(), dim=-1)
        each.append(F.normalize(z[rows] - z.mean(0), dim=-1))
    y = labels
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        cosines = torch.stack([x[part] @ x.T for x in each]).mean(0).numpy()
        alike = y[part, None] == y if y.ndim == 1 else (y[part] == 1) @ (y == 1).T
        near = np.nonzero((cosines >= NEAR) & alike)
        pairs.append(np.stack(near, 1) + (start, 0))
    return _connect(np.concatenate(pairs), len(rows))


def of_one_group(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which images, (n,), are of a class whose images are all of one group.

    Examples:
        >>> of_one_group(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])).tolist()
        [True, True, False, False]
    """
    of_classes = np.unique([labels, groups], axis=1)[0]  # a class as often as it has groups
    alone: np.ndarray = np.bincount(of_classes)[labels] == 1
    return alone


def join(*groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return groups (N,) in which two images are together if they are in any of the given ones.

    Examples:
        >>> join([0, 0, 1, 2], [0, 1, 1, 2]).tolist()
        [0, 0, 0, 1]
    """
    N, pairs = len(groups[0]), []
    for group in groups:
        _, first, number = np.unique(group, return_index=True, return_inverse=True)
        pairs.append(np.stack([np.arange(N), first[number]], 1))
    return _connect(np.concatenate(pairs), N)


def _connect(pairs: np.ndarray, N: int) -> np.ndarray:
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (N, N))
    number: np.ndarray = connected_components(graph, directed=False)[1]
    return number


def folds(labels: np.ndarray, groups: np.ndarray, parts: int, seed: int = 0) -> np.ndarray:
    """Return the number of the fold of each labelled image, (n,).

    Args:
        labels: (n,).
        groups: (n,); images of one group share a fold.
        parts: the number of folds; fewer if there are fewer groups.
        seed: of the shuffle.
    """
    _, group = np.unique(groups, return_inverse=True)
    number = int(group.max()) + 1
    need(
        number > 1,
        f"The {len(labels)} labelled images are of one group, so none can test the others: label "
        "images of another group",
    )
    parts = min(parts, number)
    if np.bincount(labels).max() < parts:  # no class can be in every fold
        return np.random.default_rng(seed).permutation(number)[group] % parts
    kind = StratifiedKFold if number == len(labels) else StratifiedGroupKFold
    fold = np.zeros(len(labels), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
        splits = kind(parts, shuffle=True, random_state=seed).split(labels, labels, group)
        for i, (_, held_out) in enumerate(splits):
            fold[held_out] = i
    return fold
