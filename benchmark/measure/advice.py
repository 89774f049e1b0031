"""Measure on labelled features whether the advice of `advise` is right.

Rows are drawn as labels, equally many of every class (balanced) or as they come. All others test,
and count for their class's share of the labels. Numbers of labels that a class does not have are
left out. A folder has one file of features (docs/features.md) for each CLIP, of the same rows.
Every number is over all draws and CLIPs; differences are in points of accuracy.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from tabulate import tabulate

from trainers.prompting.advice.choice import Candidate, Choice, choose, methods_for
from trainers.prompting.advice.fits import Space
from trainers.prompting.advice.folds import near_pairs
from trainers.prompting.advice.labels import calibration, pick_next, suspicious, try_suspicious
from trainers.prompting.advice.statement import LEAST, Statement, accuracy_curve
from trainers.prompting.errors import need
from trainers.prompting.record.calibration import likeness
from trainers.prompting.storage.features import read_features

from ..cli import Parser, each, from_one, from_zero, one_of

LABELS = 1, 2, 4, 8, 16  # a class
TEXT_NORM = 10.0  # of OpenAI's CLIPs, about: published files have normalised features only
ERRORS = 0.05, 0.1, 0.2  # of sets
OTHER = 0.25  # of the classes are strange
WRONG = 20  # of so many labels one is swapped
MOST_CLAP = 2  # labels a class up to which CLAP is compared with: it takes longest
# settings whose best the choice is compared with, besides zero-shot CLIP
OTHERS: dict[str, list[dict[str, Any]]] = {
    "LPPlusPlus": [{"FORM": "cleared"}],
    "GDA": [{"ALPHA": alpha} for alpha in (0.1, 1.0, 10.0, 100.0, 1e3)],
    "CLAP": [{}],
    "TipAdapter": [
        {"AUGMENT_EPOCH": 1, "INIT_ALPHA": alpha, "INIT_BETA": beta}
        for alpha, beta in product((1.0, 2.0, 5.0), (1.0, 5.0))
    ],
}
NEED_ALL = "LPPlusPlus", "GDA"  # labels of all classes
Numbers = defaultdict[tuple, list[float]]  # (line, column) -> a number of each draw


def read_spaces(folder: Path) -> tuple[list[Space], np.ndarray]:
    """Return the CLIPs of a folder or a file, and the labels of their rows, (N,).

    Files of features, or as RS-TransCLIP's are stored, of which assets/whurs19.py makes some.
    """
    spaces: list[Space] = []
    labels = np.empty(0)
    for path in [folder] if folder.is_file() else sorted(folder.glob("*.safetensors")):
        try:
            tensors = load_file(path)
        except SafetensorError:  # `read_features` says what is wrong
            tensors = {}
        if "texts" in tensors:
            print(f"Left out: '{path}' has only sentences")
            continue
        if "image_features" in tensors:
            text = TEXT_NORM * F.normalize(tensors["text/average"].float(), dim=-1)
            image, scale = tensors["image_features"], float(tensors["logit_scale"])
            y = tensors["label"].numpy()
        else:
            features = read_features(path)
            text, image = features.sentences(features.template), features.image
            scale, y = features.logit_scale, features.label.numpy()
        need(not spaces or np.array_equal(labels, y), f"'{path}' has other rows: move it away")
        spaces.append(Space(path.stem, image.float(), text, scale))
        labels = y
    need(spaces, f"There is no file of features (*.safetensors) in '{folder}'")
    return spaces, labels


def draw_rows(y: np.ndarray, m: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """Return rows, m of each class or as they come; of one seed, a larger m has those and more."""
    order = rng.permutation(len(y))
    if not balanced:
        return order[: m * (y.max() + 1)]
    return np.concatenate([order[y[order] == k][:m] for k in range(y.max() + 1)])


def sizes(y: np.ndarray, labels: tuple[int, ...]) -> list[int]:
    """Return the numbers of labels that every class has, and one more."""
    return [m for m in labels if m < np.bincount(y).min()]


class Draw:
    """One draw of labels, and the accuracy of fits to them on all other rows.

    What is said is said of images like the labelled ones, so the others count for their class's
    share of the labels; with `of_new`, those alone that are no near-copies of labelled ones.
    """

    def __init__(self, spaces: list[Space], y: np.ndarray, rows: np.ndarray):
        self.y, self.rows = y, rows
        self.rest = np.setdiff1d(np.arange(len(y)), rows)
        self.spaces = [space.span(rows) for space in spaces]
        copies = near_pairs(spaces, self.rest, rows, y[self.rest], y[rows])[:, 0]
        self.weights = self._weights(np.ones(len(self.rest)))
        self.of_new = self._weights(1.0 - np.isin(np.arange(len(self.rest)), copies))
        self.given = np.full(len(y), -1)
        self.given[rows] = y[rows]

    def _weights(self, kept: np.ndarray) -> np.ndarray:
        K, of = self.y.max() + 1, self.y[self.rest]
        labels = np.bincount(self.y[self.rows], minlength=K)
        weights: np.ndarray = kept * (labels / np.bincount(of, kept, K).clip(1))[of]
        return weights / weights.sum()

    def logits(self, one: Candidate) -> np.ndarray:
        """Return logits of all other rows by a candidate that is fitted to the labels."""
        rows, space = self.rows, self.spaces[one.number]
        return space.logits(one.method, rows, self.y[rows], self.rest, **one.settings)

    def percent(self, hits: np.ndarray, new: bool = False) -> float:
        """Return the share of the other rows of which something is true, in percent."""
        return 100 * float(hits @ (self.of_new if new else self.weights))

    def accuracy(self, logits: Any, new: bool = False) -> float:
        """Return the accuracy of logits of the other rows, in percent."""
        return self.percent(np.asarray(logits).argmax(1) == self.y[self.rest], new)

    @torch.no_grad()
    def others(self) -> Iterator[float]:
        """Yield the accuracies of all settings on all CLIPs; those that need all classes, if so."""
        labels, K = torch.as_tensor(self.y[self.rows]), len(self.spaces[0].text)
        every, many = len(labels.unique()) == K, len(labels) > MOST_CLAP * K
        for space in self.spaces:
            yield self.accuracy(space.zero_shot()[self.rest])
            for method, nodes in OTHERS.items():
                if many if method == "CLAP" else not every and method in NEED_ALL:
                    continue
                for node in nodes:
                    model = space.fit(method, self.rows, labels, **node)
                    yield self.accuracy(model(space.images[self.rest]))


def alone(choice: Choice, number: int) -> Choice:
    """Return the choice on a single CLIP."""
    kept = [c for c in choice.candidates if c.number == number]
    return Choice(**{**vars(choice), "candidates": kept})


def add(into: Numbers, m: int, end: str, found: Mapping[str, float]) -> None:
    """Add a number to each of these lines, whose names end so, in the column of m labels."""
    for line, number in found.items():
        into[line + end, m].append(number)


def measure_choice(
    spaces: list[Space], y: np.ndarray, seed: int, into: Numbers, balanced: bool
) -> None:
    """Add regret, and what is said of the accuracy beside what is true, of each size."""
    for m in sizes(y, LABELS):
        draw = Draw(spaces, y, draw_rows(y, m, balanced, np.random.default_rng(seed)))
        choice = choose(spaces, draw.given)
        logits = {c: draw.logits(c) for c in choice.candidates}
        true = {c: draw.accuracy(x) for c, x in logits.items()}
        best, of_choice = max(true.values()), true[choice.best]
        add(into, m, "", {
            "accuracy of the choice": of_choice,
            "regret": max([best, *draw.others()]) - of_choice,
            "regret among the candidates": best - of_choice,
        })  # fmt: skip
        each = [alone(choice, number) for number in range(len(spaces))]
        lines = [(choice, ", all CLIPs"), *((one, ", each CLIP") for one in each if each[1:])]
        for one, line in lines if choice.m >= LEAST else ():
            said, of_new = Statement(one), draw.accuracy(logits[one.best], new=True)
            about, low = (100 * share for share in said.accuracy)
            held = {"": low <= true[one.best], " of new images": low <= of_new}
            add(into, m, line, {f"'at least' held{x}": holds for x, holds in held.items()})
            if not said.at_least:
                add(into, m, line, {
                    "'about'": about, "true": true[one.best], "true of new images": of_new,
                    "right out of fold": 100 * one.best.right / len(one.labels),
                })  # fmt: skip


def measure_half(spaces: list[Space], y: np.ndarray, seed: int, into: Numbers) -> None:
    """Add what is said of half of the labels, and what is true, on each CLIP."""
    for m in sizes(y, LABELS[2:]):
        few, rows = (draw_rows(y, x, True, np.random.default_rng(seed)) for x in (m // 2, m))
        choice, half = choose(spaces, Draw(spaces, y, rows).given), Draw(spaces, y, few)
        for number, space in enumerate(spaces):
            one = alone(choice, number)
            if curve := accuracy_curve(space, one):
                true = half.accuracy(half.logits(one.best), new=True)
                add(into, m, "", {"said": 100 * curve.accuracy[1], "true of new images": true})


def measure_wrong(spaces: list[Space], y: np.ndarray, seed: int, into: Numbers) -> None:
    """Add which labels look wrong where some are, and what is said of it, on each CLIP."""
    K = int(y.max()) + 1
    for m, way in product(sizes(y, LABELS[2:]), ("at random", "for the likeliest")):
        rng = np.random.default_rng(seed)
        rows = draw_rows(y, m, True, rng)
        given = Draw(spaces, y, rows).given
        swapped = rng.permutation(rows)[: round(len(rows) / WRONG)]
        given[swapped] = (y[swapped] + rng.integers(1, K, len(swapped))) % K
        if way == "for the likeliest":
            besides = np.mean([one.zero_shot()[swapped] for one in spaces], 0)
            besides[np.arange(len(swapped)), y[swapped]] = -np.inf
            given[swapped] = besides.argmax(1)
        choice, line = choose(spaces, given), f", swapped {way}"
        for number, space in enumerate(spaces):
            one = alone(choice, number)
            found = suspicious(one)
            both = int(np.isin(choice.rows[found], swapped).sum())
            into[f"right of those named{line}", m] += [1.0] * both + [0.0] * (len(found) - both)
            add(into, m, line, {"named of the swapped": both / len(swapped)})
            if trial := try_suspicious(one, space, found):
                add(into, m, line, {"right said": trial.right, "named said": trial.found})


def measure_next(spaces: list[Space], y: np.ndarray, seed: int, into: Numbers) -> None:
    """Add the gain of picked labels over random ones, in rounds of one label a class from none."""
    K, rng = int(y.max()) + 1, np.random.default_rng(seed)
    order = rng.permutation(len(y))
    pool, test = np.split(order, [len(y) // 2])
    for space in spaces:
        labels, picked = np.full(len(y), -1), [""] * len(y)
        labels[test] = -2  # neither labelled nor offered
        offered = np.sort(pool)
        part = Space(space.name, space.images[offered], space.text, space.scale)
        for turn in range(1, max(LABELS) + 1):
            inner = labels[offered]
            method = methods_for(np.bincount(inner[inner >= 0], minlength=K))[-1]
            rows, how = pick_next(part, inner, K, method, [picked[row] for row in offered])
            labels[offered[rows]] = y[offered[rows]]
            for row in offered[rows]:
                picked[row] = how
            if turn in LABELS:
                gain = []
                for known in (np.flatnonzero(labels >= 0), pool[: turn * K]):
                    method = methods_for(np.bincount(y[known], minlength=K))[-1]
                    logits = space.span(known).logits(method, known, y[known], test)
                    gain.append(100 * float((logits.argmax(1) == y[test]).mean()))
                into["random labels, %", turn].append(gain[1])
                into["picked less random", turn].append(gain[0] - gain[1])
                into["share of draws below random by 0.5", turn].append(gain[0] < gain[1] - 0.5)


def measure_sets(spaces: list[Space], y: np.ndarray, seed: int, into: Numbers) -> None:
    """Add how many answers with a chosen error have the class of their image, on each CLIP."""
    names = [*map(str, range(int(y.max()) + 1))]
    for m in sizes(y, LABELS[1:]):
        draw = Draw(spaces, y, draw_rows(y, m, True, np.random.default_rng(seed)))
        choice = choose(spaces, draw.given)
        for number, space in enumerate(spaces):
            one, z = alone(choice, number), space.images[draw.rest]
            found = calibration(one, space)
            logits = torch.from_numpy(draw.logits(one.best))
            for error in ERRORS:
                answers = found.answers(logits, z, error, names)
                pairs = zip(y[draw.rest], answers, strict=True)
                right = np.array([str(k) in answer.classes for k, answer in pairs])
                size = np.array([len(answer.classes) for answer in answers])
                lacking, unlucky = 100 - draw.percent(right), 100 * found.most_lacking(error)
                add(into, m, f", {error}", {
                    "lacking their class": lacking,
                    "the same of new images": 100 - draw.percent(right, new=True),
                    "lacking with bad luck": unlucky,
                    "share of draws with more": lacking > unlucky,
                    "classes in the answer": draw.percent(size) / 100,
                    "not 'none of these'": draw.percent(size > 0),
                    "several": draw.percent(size > 1),
                    "several said": 100 * found.share_of_several(error),
                })  # fmt: skip


def measure_strangers(spaces: list[Space], y: np.ndarray, seed: int, into: Numbers) -> None:
    """Add how many images of classes that are left out get no class, and what is said of it."""
    rng, K = np.random.default_rng(seed), int(y.max()) + 1
    known = np.sort(rng.permutation(K)[: K - round(OTHER * K)])
    rows, strange = np.flatnonzero(np.isin(y, known)), np.flatnonzero(~np.isin(y, known))
    of_class = 1 / np.bincount(y[strange])[y[strange]]
    parts = [Space(one.name, one.images[rows], one.text[known], one.scale) for one in spaces]
    inner = np.searchsorted(known, y[rows])
    for m in sizes(inner, LABELS[1:]):
        draw = Draw(parts, inner, draw_rows(inner, m, True, rng))
        choice = choose(parts, draw.given)
        for number, space in enumerate(parts):
            found = calibration(alone(choice, number), space)
            assert found.centre is not None and found.classes is not None
            cosines = likeness(spaces[number].images[strange], found.centre, found.classes)
            for error in ERRORS:
                beyond = (cosines < found.limits(error)[1]).double().numpy()
                if (said := found.share_of_strangers(error)) is not None:
                    true = 100 * float(np.average(beyond, weights=of_class))
                    add(into, m, f", {error}", {"said": 100 * said, "true": true})


MEASURES: dict[str, Callable[[list[Space], np.ndarray, int, Numbers], None]] = {
    "balanced": partial(measure_choice, balanced=True),
    "as-they-come": partial(measure_choice, balanced=False),
    "half": measure_half,
    "wrong": measure_wrong,
    "next": measure_next,
    "sets": measure_sets,
    "strangers": measure_strangers,
}


def main(argv: list[str]) -> None:
    """Run `python -m benchmark measure advice`."""
    parser = Parser(prog="python -m benchmark measure advice", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="with a file of features for each CLIP; or one such file")
    add("--draws", type=from_one, default=20, metavar="NUMBER")
    add("--seed", type=from_zero, default=0, metavar="S", help="of the first draw")
    add("--parts", type=each(one_of(MEASURES)), default=list(MEASURES), metavar="NAMES",
        help=f"what to measure (default: {' '.join(MEASURES)})")  # fmt: skip
    args = parser.parse_args(argv)
    spaces, y = read_spaces(args.folder)
    print(f"{len(y):,} rows, {y.max() + 1} classes: {', '.join(s.name for s in spaces)}")
    for part in args.parts:
        found: Numbers = defaultdict(list)
        for seed in range(args.seed, args.seed + args.draws):
            MEASURES[part](spaces, y, seed, found)
        print(table(part, found, args.draws), flush=True)


def table(part: str, found: Numbers, draws: int) -> str:
    """Return the means of all numbers, in Markdown."""
    columns = sorted({column for _, column in found})
    lines = [
        [line, *(mean(found[line, m]) if found.get((line, m)) else None for m in columns)]
        for line in dict.fromkeys(line for line, _ in found)
    ]
    head = [f"{part}, {draws} draws", *(f"{m} a class" for m in columns)]
    return tabulate(lines, head, tablefmt="pipe", floatfmt=".2f")
