"""The list of what takes images with several labels, each present, absent or unknown.

Methods say so themselves (`Method.several`). Whatever is not here refuses, in one sentence.
"""

from typing import Any

from ..errors import need
from .keys import KEYS

COMMANDS = (
    "train.py", "several_labels", "several_base2new", "report", "status", "check-data", "download",
    "features", "info", "advise", "predict", "serve", "export",
)  # fmt: skip
# Keys that are for one label an image; with their defaults they do nothing.
ONE_LABEL = (
    "DATASET.LABEL_NOISE", "DATASET.LABEL_NOISE_KIND", "DATASET.IMBALANCE",
    "TRAIN.ATTACK", "TEST.ATTACK", "TEST.OOD", "TEST.STREAM", "TEST.PER_CLASS_RESULT",
    "TEST.COMPUTE_CMAT",
)  # fmt: skip
SEVERAL = ("DATASET.KNOWN",)  # keys that are for several labels


def refuse_several(what: str) -> None:
    """Raise the error of a command or function that does not take several labels."""
    need(
        what in COMMANDS,
        f"{what} is for images with one label, and these have several: {', '.join(COMMANDS)} take "
        "them",
    )


def check_labels(cfg: Any, several: bool) -> None:
    """Refuse a cfg whose keys do not fit the labels of its data set: one an image, or several."""
    kind, other = ("several labels", "one") if several else ("one label", "several")
    for place in ONE_LABEL if several else SEVERAL:
        node, _, key = place.rpartition(".")
        usual = KEYS[place].default
        value = getattr(getattr(cfg, node, None), key, usual)
        need(
            value == usual,
            f"{place} is {value}, which is for images with {other}, but those of "
            f"this data set have {kind}: leave it out",
        )
