"""Label noise and class imbalance of the training images, drawn from the seed of the run.

Validation, test and unlabelled images stay as they are. The draws have their own generators, so
few-shot sampling draws the same images as without, and what a higher value changes includes, but
for rounding, what a lower one does.
"""

import math
import random
from copy import copy
from types import SimpleNamespace

from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.errors import need, one_of

CHANGES = ("LABEL_NOISE", "LABEL_NOISE_KIND", "IMBALANCE")  # keys of the node DATASET
KINDS = ("symmetric", "pair", "sym", "asym")


def keys_of(node):
    """Return the values of CHANGES in a node DATASET, if there; raises UserError if invalid."""
    usual = {key: KEYS[f"DATASET.{key}"].default for key in CHANGES}
    values = SimpleNamespace(**{key: getattr(node, key, x) for key, x in usual.items()})
    need(
        0 <= values.LABEL_NOISE < 1,
        f"DATASET.LABEL_NOISE is {values.LABEL_NOISE} but must be the share of wrong training "
        "labels, from 0 to below 1",
    )
    one_of("DATASET.LABEL_NOISE_KIND", values.LABEL_NOISE_KIND, KINDS)
    need(
        1 <= values.IMBALANCE < math.inf,
        f"DATASET.IMBALANCE is {values.IMBALANCE} but must be the size of the largest class over "
        "that of the smallest, 1 or more",
    )
    return values


def changes(values):
    """Return True if the values of CHANGES change training images."""
    return values.LABEL_NOISE > 0 or values.IMBALANCE > 1


def imbalance_classes(items, imbalance, seed):
    """Cut classes so that their sizes fall exponentially (Cao et al., LDAM, 2019, section 4).

    Class i of K, from 0, keeps n imbalance^(-i / (K - 1)) images, rounded and at least one, of the
    n of the largest class; the imbalance is 1 or more. Larger classes come first; those of the same
    size, as in few-shot sampling, are in an order drawn from the seed; a negative one draws anew.

    Returns:
        The items that are kept, in their order.
    """
    rng = generator("imbalance", seed)
    groups = sorted(_shuffled_classes(items, rng), key=len, reverse=True)  # stable
    kept = set()
    for i, group in enumerate(groups):
        share = imbalance ** (-i / max(1, len(groups) - 1))
        kept |= set(group[: max(1, _nearest(len(groups[0]) * share))])
    return [item for i, item in enumerate(items) if i in kept]


def noisy(items, names, noise, kind, seed):
    """Replace a share of the labels of each class by those of other classes.

    `symmetric` draws the wrong label from all other classes with equal chances, `pair` takes that
    of the next class (Han et al., Co-teaching, 2018). The share is exact, as in few-shot prompt
    learning (Wu et al., PTNL, 2023): a quarter of 16 shots are 4 images of each class. Where it is
    not a whole number, it is rounded over the classes, in an order drawn from the seed.

    `sym` and `asym` are the same as NLPrompt's Dassl draws them: the wrong ones are int(noise n) of
    all n images, so that classes have more or less of them.

    Args:
        names: label -> class name, with K >= 2 labels from 0.
        noise: the share, from 0 to below 1.
        kind: one of `KINDS`.
        seed: of the run; negative: another draw each time.

    Returns:
        The items in their order, with new ones for wrong labels.
    """
    rng, K = generator("label noise", seed), len(names)
    groups, rounded = _shuffled_classes(items, rng), _nearest
    if kind in ("sym", "asym"):
        groups, rounded = [rng.sample(range(len(items)), len(items))], math.floor
    replaced, seen, wrong = list(items), 0, 0
    for group in groups:
        seen += len(group)
        count = rounded(noise * seen) - wrong
        wrong += count
        steps = [1 if kind in ("pair", "asym") else rng.randrange(1, K) for _ in group]
        for i, step in zip(group[:count], steps, strict=False):
            label = (items[i].label + step) % K
            replaced[i] = relabel(items[i], label, names[label])
    return replaced


def relabel(item, label, classname):
    """Return a copy of an image with another label, and with all that a subclass of Datum adds."""
    other = copy(item)
    other._label, other._classname = label, classname
    return other


def generator(draw, seed):
    """Return a generator for one kind of draw; a negative seed draws anew each time."""
    return random.Random(f"{draw} {seed}" if seed >= 0 else None)


def _shuffled_classes(items, rng):
    """Return the positions of each class's items, all in random order."""
    groups: dict[int, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(item.label, []).append(i)
    return rng.sample([rng.sample(group, len(group)) for group in groups.values()], len(groups))


def _nearest(x):
    return math.floor(x + 0.5)
