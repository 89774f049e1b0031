"""Says what an advice is enough for, and which classes need more images.

Letters: n labelled images, K classes.
"""

import math
from collections.abc import Sequence

import numpy as np

from .statement import Statement, least_share

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
    order = choice.counts.argsort(kind="stable")
    known = {
        "such images, up to": said.least,
        "images of other series, about": said.of_others,
        "such images, about": said.accuracy,
    }
    which, share = next(((x, p) for x, p in known.items() if p is not None), ("", None))
    if share is None:
        why = said.silent or "Fewer than four labels a class, in series, say nothing about accuracy"
        lines = [f"Whether it is enough for a purpose is not known. {why}."]
    else:
        right = sure = math.floor(100 * share)
        if said.least is None:  # not even all right answers show more
            sure = min(right, math.floor(100 * least_share(1.0, choice.effective)))
        purpose, most = (
            next((text, at) for at, text in ENOUGH.items() if x >= at) for x in (sure, right)
        )
        but = f", though so few labels show only that up to {100 - sure} may" * (purpose != most)
        lines = [f"Of 100 {which} {100 - right} get a wrong class{but}: enough {purpose[0]}."]
    if not said.silent:
        order = np.lexsort((-wrong / choice.counts.clip(1), choice.counts > 0))
        order = order[(wrong[order] > 0) | (choice.counts[order] == 0)]
    said_of = [
        f"{names[k]} ({f'{wrong[k]} of {c} wrong' if c and not said.silent else f'{c} labels'})"
        for k, c in ((k, int(choice.counts[k])) for k in order[:SHOWN].tolist())
    ]
    said_of = [*(f"{name} (0 labels)" for name in said.unanswered), *said_of][:SHOWN]
    if said_of:
        lines.append(f"Add images, first of these classes: {', '.join(said_of)}.")
    return lines
