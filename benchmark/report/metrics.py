"""Tables of further metrics, and of the accuracy of each class.

Metrics of single tests are read from the records of runs; metrics over base and new classes
together are computed from predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError

from ..protocols.base import Protocol, shots_text
from ..records import METRICS, OOD, Metric, Outcome, at_bound
from .answers import arrays_of, each_seed
from .frame import rows
from .joint import joint
from .names import by_artist, dataset_title
from .paired import harmonic
from .published import marked, meaning
from .tables import (
    AVERAGE_H,
    EACH_H,
    ONE_SEED,
    Cell,
    Table,
    first_head,
    known,
    metric_cell,
    more,
    protocol_of,
    seeds_text,
    spread_note,
    table_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSING = "metrics missing in results.json; repeat the run with TEST.PREDICTIONS True"
AT_BOUND = "the temperature is at its bound, so that ECE scaled could be less"
PER_CLASS = "per_class_accuracy"

NO_OOD = "not tested on other data sets; repeat the run with --ood"
OOD_NOTE = (
    "AUROC and FPR95 (%) of telling test images from those of another data set, which stands "
    "before them, by MCM or GL-MCM."
)

# Columns (in %) of the extended base-to-new table: those of the single tests, then the keys of
# `joint_metrics`.
JOINT = {
    "base": Metric("Base"),
    "new": Metric("New"),
    "h": Metric("H"),
    "joint_accuracy": Metric("Joint"),
    "openworld_auc": Metric("OpenworldAUC"),
    "auroc": Metric("AUROC"),
    "calibration_error": Metric("ECE", more_is_better=False),
    "calibration_error_scaled": Metric("ECE scaled", more_is_better=False),
}
JOINT_NOTE = (
    "Joint, ECE (expected calibration error, in 15 bins) and ECE scaled (after division of the "
    "logits by a temperature) are over all classes; OpenworldAUC and AUROC over pairs of a base "
    "and a new image. All in %."
)
RELATIVE_TO = "CoOp"  # costs are multiples of this method's
RELATIVE = {"train_seconds": "Training", "step_seconds": "Step", "peak_memory_mib": "Memory"}

# ------------------------------------------------------------------------------ one test


@dataclass(frozen=True)
class Test:
    """The runs of several methods on the same test images."""

    first: Any  # a row of the first run
    shots: int
    column: str
    runs: dict[str, dict[int, Outcome]]  # by the name of the line and seed
    beyond: dict[str, list[str]]  # marks by the name of the line

    @property
    def where(self) -> str:
        """The protocol, data set, classes and shots in words."""
        row, protocol = self.first, protocol_of(self.first)
        what = [protocol.title, dataset_title(row.dataset)]
        if row.source not in ("", row.dataset):
            what[1] += f" from {dataset_title(row.source)}"
        if len(protocol.columns) > 1:
            what.append(protocol.columns[self.column].lower())
        return ", ".join([*what, *filter(None, [row.tried]), shots_text(self.shots)])

    @property
    def name(self) -> str:
        """`where` as a file name."""
        return "_".join(self.where.replace(",", "").replace("-", "_").split()).lower()

    @property
    def seeds(self) -> int:
        """The largest number of seeds of a method."""
        return max(map(len, self.runs.values()))

    def values(self, method: str, *keys: str) -> list:
        """Return a metric (given by nested keys) of each seed of a method that has it."""
        found = [_at(outcome, *keys) for outcome in self.runs[method].values()]
        return [value for value in found if value is not None]

    def problems(self, key: str, why: str = MISSING) -> list[str]:
        """Return sentences on the methods that lack a metric, with their seeds."""
        found = []
        for method, runs in self.runs.items():
            seeds = [str(seed) for seed, outcome in runs.items() if _at(outcome, key) is None]
            if seeds:
                found.append(f"{method}: {why} [seed {', '.join(seeds)}]")
        return found

    def record(self, method: str) -> dict:
        """Return the place and seeds of a method as plain values."""
        place = {name: getattr(self.first, name) for name in ("protocol", "source", "dataset")}
        place |= {"shots": self.shots, "column": self.column, "method": method}
        return place | {"seeds": list(self.runs[method]), "problems": []}


def tests(tidy: pd.DataFrame) -> list[Test]:
    """Return all tests that the runs contain, in their order."""
    measured = tidy[(tidy["metric"] == "accuracy") & (tidy["column"] != "h")]
    # zero-shot runs appear with every number of shots
    trained = measured[measured["shots"] > 0].groupby("table")["shots"].agg(set)
    measured = measured[measured["value"].notna()]
    shots = [
        [row.shots] if row.shots else sorted(trained.get(row.table, {0}))
        for row in measured.itertuples()
    ]
    measured = measured.assign(of_shots=shots).explode("of_shots")
    columns = {column: i for i, column in enumerate(dict.fromkeys(measured["column"]))}
    measured = measured.assign(place=measured["column"].map(columns)).sort_values(
        ["line", "place", "seed"], kind="stable"
    )
    same = ["table", "dataset", "of_shots", "column"]
    found = []
    for (*_, number, column), members in measured.groupby(same, sort=False):
        first = next(members.itertuples())
        runs: dict[str, dict[int, Outcome]] = {}
        for row in members.itertuples():
            runs.setdefault(row.name, {})[row.seed] = row.outcome
        beyond = dict(zip(members["name"], members["beyond"], strict=True))
        found.append(Test(first, number, column, runs, beyond))
    return found


class _OfTests:
    """Base of views that have tables for each test, and records with the same numbers.

    Args:
        tidy: a data frame as `frame` makes it, of any protocols.
    """

    picture: str  # the kind of plot, a key of `pictures.PICTURES`
    _tables: Callable[[Test], list[Table]]

    def __init__(self, tidy: pd.DataFrame):
        self.tests = tests(tidy)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        found: dict[Protocol, list[Table]] = {}
        for test in self.tests:
            found.setdefault(protocol_of(test.first), []).extend(self._tables(test))
        return found


class Metrics(_OfTests):
    """Tables with a line for each method and a column for each metric.

    Tables over base and new classes (accuracies, costs) come first, then those of each test, with
    the out-of-distribution detection of its runs.
    """

    picture = "reliability"

    def __init__(self, tidy: pd.DataFrame):
        """Compute the metrics over base and new classes."""
        super().__init__(tidy)
        self.both = Both(tidy)

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol."""
        first = self.both.tables()
        found = super().tables()
        return {protocol: first.get(protocol, []) + tables for protocol, tables in found.items()}

    def _tables(self, test: Test) -> list[Table]:
        of_results = {
            metric.head: ((key,), metric)
            for key, metric in METRICS.items()
            if metric.everywhere or any(test.values(method, key) for method in test.runs)
        }
        notes = "; ".join(metric.note for _, metric in of_results.values() if metric.note)
        problems = test.problems("calibration_error")
        for method, runs in test.runs.items():
            limit = [seed for seed, of in runs.items() if at_bound(_at(of, "temperature"))]
            problems += [f"{method}: {AT_BOUND} [{seeds_text(limit)}]"] if limit else []
        found = [_of_test(test, "metrics", of_results, f"{notes}.", problems)]
        if of_sets := {
            f"{dataset_title(name)}: {metric.head}": (("ood", name, key), metric)
            for name in ood_sets(test)
            for key, metric in OOD.items()
            if any(test.values(method, "ood", name, key) for method in test.runs)
        }:
            what = "out-of-distribution detection"
            found.append(_of_test(test, what, of_sets, OOD_NOTE, test.problems("ood", NO_OOD)))
        return found

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers."""
        return self.both.records() + [
            test.record(method)
            | {key: _mean(test.values(method, key)) for key in METRICS}
            | {
                f"ood_{name}_{key}": _mean(test.values(method, "ood", name, key))
                for name in ood_sets(test)
                for key in OOD
            }
            for test in self.tests
            for method in test.runs
        ]


def ood_sets(test: Test) -> list[str]:
    """Return the out-of-distribution data sets of a test's runs."""
    found = [_at(outcome, "ood") or {} for runs in test.runs.values() for outcome in runs.values()]
    return list(dict.fromkeys(name for sets in found for name in sets))


def _of_test(
    test: Test,
    what: str,
    columns: Mapping[str, tuple[tuple[str, ...], Metric]],
    note: str,
    problems: list[str],
) -> Table:
    """Return a table of some metrics of a test.

    Args:
        test: the test.
        what: the kind of table, for its title.
        columns: by column head, the nested keys of a metric in records, and the metric.
        note: a sentence for the caption.
        problems: sentences on what is missing.
    """
    lines = [
        [
            Cell(marked(method, test.beyond[method])),
            *(metric_cell(test.values(method, *keys), metric) for keys, metric in columns.values()),
        ]
        for method in test.runs
    ]
    head = [first_head(protocol_of(test.first)), *columns]
    caption = [spread_note(test.seeds), note, *meaning(chain(*test.beyond.values()))]
    return Table(f"{test.where}: {what}", head, lines, caption, problems)


class Classes(_OfTests):
    """A table for each test, with a line for each class and a column for each method's accuracy."""

    picture = "confusion"

    def _tables(self, test: Test) -> list[Table]:
        found = [_accuracies(test, method) for method in test.runs]
        images = _images(test)
        lines = []
        for name in dict.fromkeys(name for accuracies in found for name in accuracies):
            means = [accuracies.get(name) for accuracies in found]
            cells = [Cell("-") if value is None else Cell(f"{value:.2f}", value) for value in means]
            lines.append([Cell(name), *([Cell(str(images[name]))] if images else []), *cells])
        title = f"{test.where}: accuracy (%) of each class"
        caption = ["Mean over the seeds." if test.seeds > 1 else ONE_SEED]
        head = ["Class", *(["n"] if images else []), *test.runs]
        caption += [N_NOTE] if images else []
        return [Table(title, head, lines, caption, test.problems(PER_CLASS))]

    def records(self) -> list[dict]:
        """Return the cells of the tables as plain numbers."""
        return [
            test.record(method) | {"class": name, "accuracy": accuracy, "images": images.get(name)}
            for test in self.tests
            for images in [_images(test)]
            for method in test.runs
            for name, accuracy in _accuracies(test, method).items()
        ]


N_NOTE = "n: test images of the class."


def images_of_classes(outcome: Outcome) -> dict[str, int]:
    """Return the number of test images of each class; empty without predictions or class names."""
    names = list(_at(outcome, PER_CLASS) or {})
    try:
        label = arrays_of(outcome)["label"]
    except UserError:
        return {}
    if label.max() >= len(names):
        return {}
    return dict(zip(names, np.bincount(label, minlength=len(names)).tolist(), strict=True))


def _images(test: Test) -> dict[str, int]:
    runs = (outcome for of in test.runs.values() for outcome in of.values())
    return next(filter(None, map(images_of_classes, runs)), {})


def _accuracies(test: Test, method: str) -> dict[str, float]:
    """Return the accuracy of each class with test images, as a mean over the seeds."""
    of_seeds = pd.DataFrame(test.values(method, PER_CLASS), dtype=object)
    return {name: mean(found) for name, column in of_seeds.items() if len(found := column.dropna())}


def _at(outcome: Outcome, *keys: str) -> Any:
    """Return the value under nested keys in the record of a run; None if absent."""
    found: Any = outcome.result
    for key in keys:
        found = (found or {}).get(key)
    return found


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None


# ------------------------------------------------------------------------ base and new classes


class Both:
    """Metrics over base and new classes: accuracies, costs, and averages over data sets.

    Args:
        tidy: a data frame as `frame` makes it.
    """

    def __init__(self, tidy: pd.DataFrame):
        measured = tidy[(tidy["metric"] == "accuracy") & tidy["value"].notna()]
        measured = measured[measured["column"].isin(("base", "new", "h"))]
        listed = rows(tidy[tidy["line"].isin(measured["line"])], beside_published=False)
        h = listed[~listed["average"] & (listed["column"] == "h")] if len(listed) else listed
        self.lines = {row.line: row for row in h.itertuples()}
        self.missing: dict[int, dict[str, list[int]]] = {}
        found = [measured.assign(metric=measured["column"])[["line", "seed", "metric", "value"]]]
        for line, members in measured.groupby("line", sort=False):
            base, new = (
                {row.seed: row.outcome for row in members[members["column"] == half].itertuples()}
                for half in ("base", "new")
            )
            pairs = {seed: (base[seed], new[seed]) for seed in sorted(base.keys() & new.keys())}
            numbers, missing = each_seed(pairs, joint)
            for half, lack in (
                ("base", new.keys() - base.keys()),
                ("new", base.keys() - new.keys()),
            ):
                if lack:
                    missing[f"no finished run on {half} classes"] = sorted(lack)
            self.missing[line] = missing
            said = [
                (line, s, key, of[key]) for s, of in numbers.items() for key in JOINT if key in of
            ]
            found.append(pd.DataFrame(said, columns=found[0].columns))
        frame = pd.concat(found)
        self.numbers = frame.groupby(["line", "metric"])["value"].agg(list).to_dict()

    def values(self, row: Any, key: str) -> list[float]:
        """Return the numbers of a line, one for each seed, by a key of JOINT."""
        return self.numbers.get((row.line, key), [])

    def _by(self, name: str) -> dict[Any, list]:
        found: dict[Any, list] = {}
        for row in self.lines.values():
            found.setdefault(getattr(row, name), []).append(row)
        return found

    def averaged(self) -> list[tuple[str, list]]:
        """Return the lines of data sets whose numbers can be averaged.

        Returns:
            "" and the lines of a group; then the same for each artist, with the artist's name.
        """
        found = []
        for group in self._by("group").values():
            found.append(("", group))
            for artist, drawn in by_artist({row.dataset for row in group}).items():
                found.append((artist, [row for row in group if row.dataset in drawn]))
        return [(artist, of) for artist, of in found if len({row.dataset for row in of}) > 1]

    def averages(self, group: Iterable) -> dict[str, dict[str, tuple[float, int]]]:
        """Return means over data sets by name and key of JOINT, each with its number of data sets.

        A data set counts for a method only if it has H there. H is computed from the averages.
        """
        found: dict[str, dict[str, tuple[float, int]]] = {}
        for name in dict.fromkeys(row.name for row in group):
            whole = [row for row in group if row.name == name and self.values(row, "h")]
            means = {
                key: [mean(v) for row in whole if (v := self.values(row, key))] for key in JOINT
            }
            found[name] = {key: (mean(of), len(of)) for key, of in means.items() if of}
            if whole:
                (base, count), (new, _) = found[name]["base"], found[name]["new"]
                found[name]["h"] = float(harmonic(base, new)), count
        return found

    def relative(self, row: Any) -> dict[str, float | None]:
        """Return the costs of a line as multiples of CoOp's; None where one of them is unknown."""
        of_table = [other for other in self.lines.values() if other.table == row.table]
        unit = next((other for other in of_table if other.name == RELATIVE_TO), None)
        costs = {
            key: (known(getattr(row, key)), known(getattr(unit, key, None))) for key in RELATIVE
        }
        return {k: own / of if own is not None and of else None for k, (own, of) in costs.items()}

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol: those of each data set, then averages."""
        found: dict[Protocol, list[Table]] = {}
        for of in self._by("table").values():
            protocol = protocol_of(of[0])
            tables = [self._joint(of), *([self._costs(of)] if protocol.costs else [])]
            found.setdefault(protocol, []).extend(tables)
        for artist, group in self.averaged():
            found[protocol_of(group[0])].append(self._average(group, artist))
        return found

    def _joint(self, of: list) -> Table:
        lines = [
            [_name(row), *(metric_cell(self.values(row, key), m) for key, m in JOINT.items())]
            for row in of
        ]
        methods: dict[str, list[str]] = {}
        for row in of:
            for why, seeds in self.missing.get(row.line, {}).items():
                methods.setdefault(f"{why} [{seeds_text(seeds)}]", []).append(row.name)
        problems = [f"{', '.join(names)}: {why}" for why, names in methods.items()]
        caption = [self._spread(of), EACH_H, JOINT_NOTE, *_meaning(of)]
        title = _title(of, "base and new classes together")
        return Table(title, _head(of, [m.head for m in JOINT.values()]), lines, caption, problems)

    def _costs(self, of: list) -> Table:
        heads = [*more(of[0]), *(f"{name}, x {RELATIVE_TO}" for name in RELATIVE.values())]
        lines = [
            [
                _name(row),
                metric_cell(self.values(row, "h"), JOINT["h"]),
                *map(Cell, more(row).values()),
                *(Cell("-" if v is None else f"{v:.2f}") for v in self.relative(row).values()),
            ]
            for row in of
        ]
        caption = [self._spread(of), EACH_H, "Training is the mean over the seeds.", *_meaning(of)]
        return Table(_title(of, "accuracy and cost"), _head(of, ["H", *heads]), lines, caption)

    def _average(self, group: list, artist: str) -> Table:
        """Return the table of averages over data sets; `artist` drew all of them, or is ""."""
        first, of = group[0], len({row.dataset for row in group})
        names = {row.name: _name(row) for row in group}
        lines = [
            [names[name], *(_mean_cell(means.get(key), of, JOINT[key]) for key in JOINT)]
            for name, means in self.averages(group).items()
        ]
        kind = f"{artist or 'embedded'} " if first.embedded else ""
        what = f"average over {of} {kind}data sets: base and new classes together"
        title = f"{protocol_of(first).title}, {what}, {shots_text(first.shots)}"
        caption = [AVERAGE_H, JOINT_NOTE, *_meaning(group)]
        return Table(title, _head(group, [m.head for m in JOINT.values()]), lines, caption)

    def _spread(self, of: Iterable) -> str:
        return spread_note(max(len(self.values(row, key)) for row in of for key in JOINT))

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers: those of data sets, then averages."""
        found = []
        for row in self.lines.values():
            means = {key: _mean(self.values(row, key)) for key in JOINT}
            costs = {key: known(getattr(row, key)) for key in ("num_params", *RELATIVE)}
            why = [f"{w} [{seeds_text(s)}]" for w, s in self.missing.get(row.line, {}).items()]
            own = {"method": row.name, "seeds": row.seeds, "problems": why}
            times = {f"{key}_x_coop": value for key, value in self.relative(row).items()}
            found.append(_place(row) | own | means | costs | times)
        for artist, group in self.averaged():
            place = _place(group[0]) | {"dataset": "average", "artist": artist or None}
            for name, of in self.averages(group).items():
                numbers = {key: of[key][0] if key in of else None for key in JOINT}
                over = {"datasets": of["h"][1] if "h" in of else 0}
                over |= {"of": len({row.dataset for row in group})}
                found.append(place | {"method": name, "problems": []} | over | numbers)
        return found


def _place(row: Any) -> dict:
    names = ("protocol", "source", "dataset", "shots")
    return {name: getattr(row, name) for name in names} | {"column": "base and new"}


def _name(row: Any) -> Cell:
    return Cell(marked(row.name, row.beyond))


def _head(of: list, names: Sequence[str]) -> list[str]:
    return [first_head(protocol_of(of[0])), *names]


def _meaning(of: Iterable) -> list[str]:
    return meaning(mark for row in of for mark in row.beyond)


def _title(of: list, what: str) -> str:
    first = of[0]
    details = [f"{table_name(first)}: {what}", shots_text(first.shots), seeds_text(first.seeds)]
    return ", ".join(details)


def _mean_cell(found: tuple[float, int] | None, of: int, metric: Metric) -> Cell:
    """Return the cell of a mean over data sets; an incomplete one is never marked as the best."""
    if found is None:
        return Cell("-")
    value, count = found
    if count < of:
        return Cell(f"{value:.2f} ({count} of {of})")
    return Cell(f"{value:.2f}", value if metric.more_is_better else -value)
