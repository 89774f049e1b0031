"""Tables over base and new classes together: accuracies, costs, and averages over data sets."""

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

import pandas as pd

from ..protocols.base import Protocol, shots_text
from ..records import Metric
from .answers import each_seed
from .frame import apart_note
from .joint import joint
from .names import by_artist
from .paired import harmonic
from .published import marked, meaning
from .rows import rows
from .tables import (
    AVERAGE_H,
    EACH_H,
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
        caption = [AVERAGE_H, JOINT_NOTE, *_meaning(group), *apart_note(group)]
        return Table(title, _head(group, [m.head for m in JOINT.values()]), lines, caption)

    def _spread(self, of: Iterable) -> str:
        return spread_note(max(len(self.values(row, key)) for row in of for key in JOINT))

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers: those of data sets, then averages."""
        found = []
        for row in self.lines.values():
            means = {key: mean_of(self.values(row, key)) for key in JOINT}
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


def mean_of(values: list[float]) -> float | None:
    """Return the mean; None without values."""
    return mean(values) if values else None
