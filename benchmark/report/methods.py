"""How methods are shown: in which order, in which colour, with which marker.

A method that is not listed here comes after those that are, by its name, with a look of its own.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    """Colour and marker of a curve: colour is never the only difference."""

    color: str
    marker: str


# The known methods in the order of a table. The first ten colours are Paul Tol's palette "muted",
# safe for the colour-blind, with black for what learns nothing; the others his "vibrant".
LOOKS = {
    "ZeroshotCLIP": Look("#000000", "*"),
    "CoOp": Look("#332288", "X"),
    "CoCoOp": Look("#DDCC77", "v"),
    "VPT": Look("#999933", "D"),
    "IVLP": Look("#88CCEE", "<"),
    "MaPLe": Look("#117733", "s"),
    "UPT": Look("#CC6677", "P"),
    "PLOT": Look("#44AA99", "^"),
    "KgCoOp": Look("#0077BB", ">"),
    "ProGrad": Look("#EE7733", "p"),
    "PromptSRC": Look("#CC3311", "d"),
    "TCP": Look("#EE3377", "8"),
    "CoPrompt": Look("#009988", "H"),
    "MMP": Look("#AA4499", "h"),
    "ALIGN": Look("#882255", "o"),
}

# Of any other method, in turn; their numbers have no common divisor, so that 143 looks differ.
OTHER_COLOURS = [
    "#555555", "#E69F00", "#56B4E9", "#7F3C8D", "#80BA5A", "#A5761D", "#3969AC", "#F2B701",
    "#8C564B", "#B2B2B2", "#666699",
]  # fmt: skip
OTHER_MARKERS = ["p", ">", "d", "8", "H", "X", "v", "D", "<", "s", "P", "^", "h"]


def looks(trainers: Iterable[str]) -> dict[str, Look]:
    """The look of each of these methods; no two are the same."""
    trainers = set(trainers)
    found = {name: look for name, look in LOOKS.items() if name in trainers}
    for i, name in enumerate(sorted(trainers - LOOKS.keys())):
        colour = OTHER_COLOURS[i % len(OTHER_COLOURS)]
        found[name] = Look(colour, OTHER_MARKERS[i % len(OTHER_MARKERS)])
    return found


def rank(trainer: str) -> tuple[int, str]:
    """The place of a method among others: known ones first, in their order."""
    known = list(LOOKS)
    return (known.index(trainer) if trainer in LOOKS else len(known)), trainer
