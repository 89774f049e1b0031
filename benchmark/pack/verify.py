"""Recompute all numbers of a pack from its predictions, and compare them with its records."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from recipe.metrics import metrics
from trainers.prompting.errors import printable

from ..cli import Parser
from ..report.packs import Pack, images_hash
from ..report.results import Outcome

TOLERANCE = 1e-4  # percentage points, or nats
MOST_CLASSES = 2**20
CHECKED = (
    "num_test", "accuracy", "macro_f1", "top5_accuracy", "calibration_error",
    "calibration_error_scaled", "negative_log_likelihood", "joint_accuracy", "per_class_accuracy",
)  # fmt: skip


def build_parser() -> Parser:
    """Return the parser of `verify`."""
    parser = Parser(prog="python -m benchmark verify", description=__doc__)
    parser.add_argument("pack", type=Path, metavar="FILE", help="zip written by `pack`")
    return parser


def main(argv: list[str]) -> int:
    """Run `python -m benchmark verify FILE`; return 1 if a number does not follow."""
    args = build_parser().parse_args(argv)
    pack = Pack(args.pack)
    outcomes = pack.outcomes()
    found: dict[Path, tuple[dict, list[str]]] = {}  # a run may be in several tables
    for outcome in outcomes:
        if outcome.run.folder not in found:
            found[outcome.run.folder] = _checked(pack, outcome)
    from ..report.render import render
    from ..report.rows import rows  # pandas is slow to load

    seen = [
        Outcome(o.run, (o.result or {}) | found[o.run.folder][0], predictions=o.predictions)
        for o in outcomes
    ]
    print(render(rows(seen, interval=True), "text"))
    wrong = 0
    for folder, (_, mismatches) in found.items():
        wrong += bool(mismatches)
        for what in mismatches:
            print(printable(f"MISMATCH {folder.relative_to(args.pack).as_posix()}: {what}"))
    size = args.pack.stat().st_size / 1e6
    what = "all numbers follow from the predictions"
    if wrong:
        what = f"{wrong:,} of the runs have numbers that do not follow from their predictions"
    print(f"{len(found):,} runs, {size:.1f} MB: {what}")
    return 1 if wrong else 0


def _checked(pack: Pack, outcome: Outcome) -> tuple[dict, list[str]]:
    """Return the numbers from a run's predictions, and how its record or the manifest differs."""
    arrays, result = pack.predictions(outcome.run.folder), outcome.result or {}
    name = outcome.run.folder.relative_to(pack.path).as_posix()
    classes = result.get("num_classes")
    most = max(int(arrays[key].max()) for key in ("label", "prediction", "top"))
    if not isinstance(classes, int) or not most < classes <= MOST_CLASSES:
        return {}, [f"num_classes is {classes} in its record, but its predictions reach {most}"]
    found = recomputed(arrays, result)
    mismatches = list(differences(result, found))
    if images_hash(arrays) != pack.runs[name].get("test_images"):
        mismatches.append("its list of test images is not that of the manifest")
    return found, mismatches


def recomputed(arrays: Mapping[str, np.ndarray], result: Mapping) -> dict:
    """Recompute the numbers of a record from predictions, by key; None where that is impossible.

    Args:
        arrays: the predictions, as `recipe.predictions` reads them.
        result: the record, for the class names and their number.
    """
    label, prediction = arrays["label"], arrays["prediction"]
    names, number = list(result.get("per_class_accuracy") or ()), result["num_classes"]
    named = len(names) == number  # False if class names repeat
    found = metrics(arrays, names if named else [str(n) for n in range(number)])
    found["num_test"] = len(label)
    found["accuracy"] = 100 * float((label == prediction).mean())
    found["macro_f1"] = macro_f1(label, prediction)
    if not named:
        found["per_class_accuracy"] = result.get("per_class_accuracy")
    return {key: found.get(key) for key in CHECKED if result.get(key) is not None}


def macro_f1(label: np.ndarray, prediction: np.ndarray) -> float:
    """Return the mean F1 (%) over the classes that have test images."""
    classes, counts = np.unique(label, return_counts=True)
    right = np.bincount(label[label == prediction], minlength=classes[-1] + 1)[classes]
    said = np.bincount(prediction, minlength=classes[-1] + 1)[classes]
    return 100 * float((2 * right / (counts + said)).mean())


def differences(recorded: Mapping, found: Mapping) -> Iterator[str]:
    """Yield a sentence for each recorded number that differs from the recomputed one."""
    for key, value in found.items():
        was = recorded.get(key)
        if isinstance(value, dict) and isinstance(was, dict):
            yield from (f"{key}, {text}" for text in differences(was, value))
        elif not _close(was, value):
            yield f"{key} is {was} in its record, {value} by its predictions"


def _close(was, value) -> bool:
    if was is None or value is None:
        return was is value
    return isinstance(was, int | float) and math.isclose(was, value, rel_tol=0, abs_tol=TOLERANCE)
