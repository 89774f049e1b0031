"""Training steps and evaluations of methods, and steps of the published code beside them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmark.measure.case import Case
from benchmark.measure.geometry import GEOMETRY
from benchmark.measure.speed import evaluation, measured, training

from .public import public_step

METHODS = ("ALIGN", "CoOp", "MaPLe", "PLOT", "PromptSRC", "MMRL")
SMALL = (64, 32, 12, 64, 16, 77, 49408, 64, 1, 12)  # as deep as ViT-B, a twelfth as wide
REPEATS = 5
EVALUATED = 100  # images of an evaluation


def cases(device: str, small: bool, more: bool) -> list[Case]:
    """Return the training cases: methods, classes, batches and precisions."""
    full = [(50, 4), (50, 32), (1000, 4), *([(1000, 32)] if more else [])]
    sizes = [(3, 2)] if small else full
    geometry, threads = SMALL if small else GEOMETRY["ViT-B/16"], 1 if small else 8
    precisions = ("amp", "fp16") if device == "cuda" else ("amp",)
    found = [
        Case(method, geometry, K, B, device, precision, threads)
        for K, B in sizes
        for method in (METHODS[:1] if small else METHODS)
        for precision in precisions
    ]
    return [replace(found[0], precision="fp32"), *found]  # one in float32, for its peak rate


def both(case: Case, small: bool) -> dict:
    """Measure training steps and an evaluation, each in a separate process."""
    size, repeats = (64, 1) if small else (8192, REPEATS)
    images = 2 if small else EVALUATED
    return {
        "training": measured(training, case, repeats, size) | {"precision": case.precision},
        "evaluation": measured(evaluation, replace(case, training=False, batch=images), repeats),
    }


def items(
    device: str, small: bool, more: bool, public: list[Path]
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield the items of this piece by name."""
    for case in cases(device, small, more):
        name = f"{case.trainer}, {case.classes} classes, batch {case.batch}, {case.precision}"
        yield name, partial(both, case, small)
        for checkout in public:
            if case.precision != "fp32":
                repeats = 1 if small else REPEATS
                yield f"{name}, {checkout.name}", partial(public_step, case, checkout, repeats)
