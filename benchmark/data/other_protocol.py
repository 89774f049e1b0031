"""Zero-shot accuracies that open_clip publishes, to stand beside ours; they are never compared.

`open_clip_zero_shot.csv` has the part of the table in the package's repository that is about our
data sets. Its sentences, splits and, on some data sets, metrics are others.
"""

import csv
from collections.abc import Iterable, Mapping
from functools import cache

from trainers.prompting.backbones.openclip import PREFIX

from ..report.published import FOLDER

FILE = FOLDER / "open_clip_zero_shot.csv"


@cache
def of_open_clip() -> dict[tuple[str, str], dict[str, float]]:
    """Return the accuracies (%) by architecture and weights, and the class of the data set."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return {
            (line.pop("architecture"), line.pop("weights")): {
                name: float(value) for name, value in line.items() if value
            }
            for line in csv.DictReader(file)
        }


def beside(backbone: str, ours: Iterable[tuple[str, str, float]]) -> str:
    """Return a line of open_clip's accuracies and ours; empty if it has none of the backbone.

    `ours` has of each data set its name, that of its class, and the accuracy (%).

    Examples:
        >>> beside("ViT-B/16", [("eurosat", "EuroSAT", 47.84)])
        "open_clip's own table has (another protocol, not compared): eurosat 55.94 (here 47.8)"
    """
    arch, _, weights = backbone.removeprefix(PREFIX).partition("/")
    if not backbone.startswith(PREFIX):  # OpenAI's name
        arch, weights = backbone.replace("/", "-"), "openai"
    theirs: Mapping[str, float] = of_open_clip().get((arch, weights), {})
    texts = [
        f"{name} {theirs[cls]:.2f} (here {accuracy:.1f})"
        for name, cls, accuracy in ours
        if cls in theirs
    ]
    head = "open_clip's own table has (another protocol, not compared): "
    return head + ", ".join(texts) if texts else ""
