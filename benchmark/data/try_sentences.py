"""Compare sentences about classes by the zero-shot accuracies that they give."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from .zero_shot import TRAINER, Checker, class_names


class Tried(NamedTuple):
    """Accuracies (%) on n images of a part: of the own sentence, then of others."""

    part: str
    n: int
    accuracies: list[float]


def try_sentences(checker: Checker, cls: Any, parts: Sequence[list], asked: Sequence[Any]) -> Tried:
    """Return zero-shot accuracies (%) with the data set's own sentence, and with others.

    Args:
        checker: with the CLIP.
        cls: the class of the data set.
        parts: train, val and test, lists of Datum; val is classified, or test without any.
        asked: an `Asked` for each.
    """
    import torch

    from trainers.prompting import build_method

    train, val, test = parts
    names = class_names(cls.__name__, train, test)
    tested = {item.impath for item in test}
    free = [item for item in val if item.impath not in tested]  # none on ImageNet
    chosen, part = checker.some(free or test), "val" if free else "test"
    place = checker.clip, names, cls.__name__
    models = [build_method(TRAINER, {}, *place, sentences=one).eval() for one in (None, *asked)]
    for model in models[1:]:
        print(f"{cls.__name__}: {model.settings.sentences.note}")
    z, labels = checker.features(cls.__name__, chosen), [item.label for item in chosen]
    accuracies = []
    for model in models:
        with torch.inference_mode():
            guess = model.to(checker.device)(z.to(checker.device)).argmax(1).cpu()
        accuracies.append(100 * float((guess == torch.tensor(labels)).float().mean()))
    return Tried(part, len(chosen), accuracies)


def side_by_side(sentences: Sequence[str], columns: dict[str, Tried], backbone: str) -> str:
    """Return the table of accuracies by sentences and data set."""
    rows = [["own sentence"], *([text] for text in sentences), ["images"]]
    for tried in columns.values():
        cells = [f"{value:.2f}" for value in tried.accuracies] + [f"{tried.n:,} {tried.part}"]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    align = ["left", *["right"] * len(columns)]
    table = tabulate(rows, ["Sentences", *columns], colalign=align, disable_numparse=True)
    tested = [name for name, tried in columns.items() if tried.part == "test"]
    note = f"Zero-shot CLIP ({backbone}), accuracy in %."
    if tested:
        note += (
            f" Without validation images, so on test images, where nothing may be chosen: "
            f"{', '.join(tested)}."
        )
    return f"{table}\n{note}"
