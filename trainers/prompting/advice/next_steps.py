"""Says what an advice is enough for, and which classes need more images.

Letters: n labelled images, K classes.
"""

import math
from collections.abc import Sequence

import numpy as np

from .statement import Statement

# Percent of right answers, at least, for a purpose.
ENOUGH = {
    95: "to sort or count images without a look at each",
    80: "to sort images that someone looks through afterwards, not to count them",
    0: "to find examples of a class, not to sort or count images",
}
SHOWN = 5  # classes


def next_steps(said: Statement, names: Sequence[str]) -> list[str]:
    """Return sentences: what the best candidate is enough for, and what to add.

    `names` are those of K classes.
    """
    choice, y = said.choice, said.choice.labels
    wrong = np.bincount(y[choice.best.logits.argmax(1) != y], minlength=len(names))
    if said.silent:
        lines = [f"Whether it is enough for a purpose is not known. {said.silent}."]
        order = choice.counts.argsort(kind="stable")
    else:
        least = math.floor(100 * said.accuracy[1])
        purpose = next(text for share, text in ENOUGH.items() if least >= share)
        lines = [f"Of 100 such images, up to {100 - least} get a wrong class: enough {purpose}."]
        order = np.lexsort((-wrong / choice.counts.clip(1), choice.counts > 0))
        order = order[(wrong[order] > 0) | (choice.counts[order] == 0)]
    said_of = [
        f"{names[k]} ({f'{wrong[k]} of {c} wrong' if c and not said.silent else f'{c} labels'})"
        for k, c in ((k, int(choice.counts[k])) for k in order[:SHOWN].tolist())
    ]
    if said_of:
        lines.append(f"Add images, first of these classes: {', '.join(said_of)}.")
    return lines
