"""The order, colours and markers of methods in tables and plots.

Methods that are not listed here come last, sorted by name, each with a distinct look.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    """Colour and marker of a curve; two curves never differ by colour only."""

    color: str
    marker: str


# The known methods in the order of a table. The first ten colours are Paul Tol's palette "muted",
# safe for the colour-blind, with black for zero-shot CLIP; the others are his "vibrant".
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

# For other methods, in turn. 11 colours and 13 markers are coprime, so that 143 looks differ.
OTHER_COLOURS = [
    "#555555", "#E69F00", "#56B4E9", "#7F3C8D", "#80BA5A", "#A5761D", "#3969AC", "#F2B701",
    "#8C564B", "#B2B2B2", "#666699",
]  # fmt: skip
OTHER_MARKERS = ["p", ">", "d", "8", "H", "X", "v", "D", "<", "s", "P", "^", "h"]


def looks(trainers: Iterable[str]) -> dict[str, Look]:
    """Return a distinct look for each of these methods."""
    trainers = set(trainers)
    found = {name: look for name, look in LOOKS.items() if name in trainers}
    for i, name in enumerate(sorted(trainers - LOOKS.keys())):
        colour = OTHER_COLOURS[i % len(OTHER_COLOURS)]
        found[name] = Look(colour, OTHER_MARKERS[i % len(OTHER_MARKERS)])
    return found


def rank(trainer: str) -> tuple[int, str]:
    """Return the sort key of a method: known ones first, in their order."""
    known = list(LOOKS)
    return (known.index(trainer) if trainer in LOOKS else len(known)), trainer
