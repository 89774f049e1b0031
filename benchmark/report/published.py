"""The paper's own few-shot numbers, and where ours can stand beside them."""

import csv
import functools
from pathlib import Path

FOLDER = Path(__file__).parent / "published_csv"
BACKBONE = "ViT-B/16"
CAPTION = f"Published: Table D.1 of the paper ({BACKBONE}, means over three seeds)."

# The table's names of the data sets, by ours; data sets that are not here are never compared.
NAMES = {
    "imagenet": "ImageNet",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "oxford_flowers": "Flowers102",
    "food101": "FOOD101",
    "fgvc_aircraft": "FGVCAircraft",
    "sun397": "SUN397",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
}

# It is said to be 95.69, with 81.99 for 8 shots. What was meant nobody knows.
MISPRINTS = {("UCF101", "ALIGN", 16)}


@functools.cache
def numbers(name: str) -> dict[tuple[str, str, int], float]:
    """The accuracy (%) of each (data set, method, shots) in a file, by the table's names."""
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return {
            (line["dataset"], line["method"], int(line["shots"])): float(line["accuracy"])
            for line in csv.DictReader(file)
        }


def published(row) -> float | None:
    """The published number of the same setting as a row of our results; None if there is none."""
    comparable = (
        row.protocol.published
        and not row.label
        and row.backbones == {BACKBONE}
        and row.splits == {"test"}
    )
    return numbers(row.protocol.published).get(_key(row)) if comparable else None


def misprint(row) -> bool:
    """Whether the published number of this setting cannot be right."""
    return _key(row) in MISPRINTS


def difference(row) -> float | None:
    """Ours minus the published number; None where that is not known or a misprint."""
    theirs, ours = published(row), row.mean("accuracy")
    if theirs is None or ours is None or misprint(row):
        return None
    return ours - theirs


def _key(row) -> tuple[str | None, str, int]:
    return NAMES.get(row.dataset), row.trainer, row.shots
