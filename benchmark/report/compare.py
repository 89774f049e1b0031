"""Differences between one method and all others, paired by test image, from predictions."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from trainers.prompting.errors import UserError, check_name

from ..protocols.base import Protocol
from ..records import Outcome
from .frame import FACTS, column_of, each_row, main_rows
from .notes import (
    apart_note,
    average_name,
    cell_name,
    computed_note,
    h_note,
    in_detail,
    place_name,
    table_name,
)
from .paired import LEAST, Pair, difference, holm
from .per_image import answers, each_seed, motifs, tasks_of
from .published import meaning, with_marks
from .summary import protocol_of, sets_to_average
from .table import Cell, Table

DIFFERENCE = (
    "Difference in points [95% interval], and p (adjusted by Holm for the number of comparisons in "
    "its column)."
)
FEW = {  # by the number of seeds
    1: "With one seed, an interval is not about other seeds; methods that depend on it have no p.",
    2: "With two seeds, most intervals are too wide to be of use: repeat with a third.",
}
AVERAGE = "Differences of the means over the data sets."

OTHER_BASIS = "another CLIP or other test images"

# Fields that place a comparison in the tables; the records leave them out.
PLACE = ["ours", "theirs", "table", "place", "average"]


class Comparisons:
    """All comparisons of one method with the others of the same tables.

    `table_rows` is the summary of these runs. Runs with other CLIPs or test images are not
    compared.
    """

    picture = ""  # it has no figures of its own

    def __init__(self, tidy: pd.DataFrame, table_rows: pd.DataFrame, method: str):
        """Compare; comparisons that are impossible are listed as problems."""
        self.method = method
        self.heading = f"{method} minus each other"
        measured = table_rows[~table_rows["average"]]
        check_name("method to compare", method, list(dict.fromkeys(measured["name"])))
        done = main_rows(tidy)
        done = done[done["value"].notna()]
        self._runs: dict[tuple, dict[int, Outcome]] = {  # by line and column, then by seed
            place: dict(zip(runs["seed"], runs["outcome"], strict=True))
            for place, runs in done.groupby(["line", "column"])
        }
        self._names: dict[str, int] = {}  # the number of each unit
        self._units: dict[tuple, np.ndarray] = {}  # the unit of each image, by test set
        self._refused: dict[int, list[str]] = defaultdict(list)  # sentences by table
        averages, by_average = sets_to_average(measured), defaultdict[tuple, list](list)
        records = []
        for ours, theirs in _pairs(measured, method):
            if _basis(ours) != _basis(theirs):
                self._refused[ours.table].append(f"{theirs.name}: {OTHER_BASIS}")
                continue
            records.append(self._compare([(ours, theirs)]))
            by_average[ours.group, theirs.name, max(ours.shots, theirs.shots), ours.column] += [
                (ours, theirs)
            ]
        if not records:
            reason = f"only {method} was found: run another method in the same setting"
            raise UserError(f"--compare: {next(iter(self._refused.values()), [reason])[0]}")
        for (group, *_), pairs in by_average.items():
            datasets = averages.get(group, set())
            if members := [pair for pair in pairs if pair[0].dataset in datasets]:
                records.append(self._compare(members, len(datasets)))
        frame = pd.DataFrame(records, dtype=object)
        # those without p are comparisons, too
        tested = frame[frame["difference"].notna()].fillna({"p": 1.0})
        p = tested.groupby(["table", "place"])["p"].transform(lambda p: holm(list(p)))
        frame["p_holm"] = p.reindex(frame.index).astype(object).where(frame["p"].notna(), None)
        self.differences = frame

    def _compare(self, pairs: list[tuple], total: int | None = None) -> dict:
        """Compare two methods, on one data set or on average, and return the record.

        `pairs` are our row and theirs on each data set; an average is of `total` data sets.
        """
        ours, theirs = pairs[0]
        shots = max(ours.shots, theirs.shots)
        blocks, problems = [], []
        for pair in pairs:
            block, sentences = self._block(*pair)
            problems += sentences
            blocks += [block] if block else []
        trained = not (ours.untrained and theirs.untrained)
        result = difference(blocks, trained).cut() if blocks else [None] * 5
        protocol = protocol_of(ours)
        placed = SimpleNamespace(**vars(ours) | {"shots": shots, "average": total is not None})
        return {
            "protocol": protocol.name,
            "source": ours.source,
            "dataset": ours.dataset if total is None else "average",
            "embedded": ours.embedded,
            "datasets": len(blocks),  # number of data sets, and how many there should be
            "of": total or 1,
            "shots": shots,
            "column": column_of(ours),
            **({"metric": ours.main} if ours.main != "accuracy" else {}),
            "method": self.method,
            "other": theirs.name,
            **dict(zip(("difference", "low", "high", "p", "differing"), result, strict=True)),
            "p_holm": None,
            "seeds": sorted({int(seed) for block in blocks for seed in block[0].seeds}),
            "images": sum(len(pair.units) for block in blocks for pair in block),
            "problems": problems,
            "ours": ours,
            "theirs": theirs,
            "table": ours.table if total is None else ours.group,
            "place": place_name(placed),
            "average": total is not None,
        }

    def _block(self, ours, theirs) -> tuple[list[Pair], list[str]]:
        """Pair the answers of two methods on one data set.

        Returns:
            A pair for each column, none if they cannot be compared; sentences on what is missing.
        """
        both, by_line, problems = (ours, theirs), {}, []
        columns = ("base", "new") if ours.column == "h" else (ours.column,)
        for column, row in product(columns, both):
            runs = self._runs.get((row.line, column), {})
            by_line[row.line, column], reasons = each_seed(runs, answers)
            where = f"{row.name}, {cell_name(row, [column])}"
            problems += [f"{where}: {why}" for why in reasons]
            problems += [] if runs else [f"{where}: no finished run"]
        if not all(by_line.values()):
            return [], problems
        seed_sets = [set(by_line[row.line, column]) for row in both if not row.untrained
                   for column in columns]  # fmt: skip
        seeds = sorted(set.intersection(*seed_sets)) if seed_sets else ours.seeds[:1]
        where = f"{theirs.name}, {cell_name(theirs, columns)}"
        if not seeds:
            return [], [*problems, f"{where}: no seed that {self.method} has, too"]
        for row in both:
            has = set(ours.seeds).intersection(*(by_line[row.line, column] for column in columns))
            if not row.untrained and len(has) < len(ours.seeds):
                lacking = f"{row.name}, {cell_name(row, columns)}"
                problems.append(f"{lacking}: {len(has)} of {len(ours.seeds)} seeds")

        block = []
        for column in columns:
            found = [
                # an untrained method's one run counts for every seed
                [*by_line[row.line, column].values()][:1] * len(seeds)
                if row.untrained
                else [by_line[row.line, column][seed] for seed in seeds]
                for row in both
            ]
            of_seeds = [{one.images for one in of_seed} for of_seed in zip(*found, strict=True)]
            outcome = self._runs[ours.line, column][next(iter(by_line[ours.line, column]))]
            images = set.union(*of_seeds)
            # each seed draws its own tasks
            if max(map(len, of_seeds if tasks_of(outcome) else [images])) > 1:
                what = f"other test images, or labels, than {self.method} or than other seeds"
                return [], [*problems, f"{where}: {what}"]
            units = self._numbers(outcome, column, images.pop())
            hits = (np.stack([one.hits for one in of_method]) for of_method in found)
            block.append(Pair(units, np.array(seeds), *hits))
        return block, problems

    def _numbers(self, outcome: Outcome, column: str, images: str) -> np.ndarray:
        """Return the number of the motif of each test image, (n,)."""
        key = outcome.run.dataset, column, images
        if key not in self._units:
            names = motifs(outcome, column)
            number = [self._names.setdefault(name, len(self._names)) for name in names]
            self._units[key] = np.array(number)
        return self._units[key]

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol, with a line for each other method."""
        by_protocol: dict[Protocol, list[Table]] = {}
        for _, members in self.differences.groupby("table", sort=False):
            protocol = protocol_of(members.iloc[0]["ours"])
            by_protocol.setdefault(protocol, []).append(self._table(protocol, members))
        return by_protocol

    def _table(self, protocol: Protocol, members: pd.DataFrame) -> Table:
        places = members["place"].unique()
        lines = []
        for theirs, line in members.groupby("other", sort=False):
            cells = {row.place: _cell(row) for row in each_row(line)}
            name = with_marks(theirs, line.iloc[0]["theirs"].beyond)
            lines.append([Cell(name), *(cells.get(place, Cell("-")) for place in places)])
        caption = [DIFFERENCE, *self._describe_units(members)]
        average = members.iloc[0]["average"]
        caption += [AVERAGE] * bool(average)
        caption += h_note(protocol.columns)
        both = [row for side in ("ours", "theirs") for row in members[side]]
        caption += meaning(chain(*(row.beyond for row in both)))
        caption += computed_note(both)
        caption += apart_note(both) if average else []
        refused = self._refused.get(members.iloc[0]["ours"].table, [])
        problems = list(dict.fromkeys([*members["problems"].explode().dropna(), *refused]))
        head = ["Method", *places]
        return Table(self._title(protocol, members), head, lines, caption, problems)

    def _describe_units(self, members: pd.DataFrame) -> list[str]:
        """Return sentences on what a table resamples, and what its intervals therefore cover."""
        first = members.iloc[0]
        what = "motifs" if first["embedded"] and first["ours"].main == "accuracy" else "images"
        if str(dict(first["ours"].settings).get("STREAM")).startswith("few:"):
            what = "tasks"
        several = ", each in all data sets at once" if members["average"].any() else ""
        sentences = [
            f"Resampled: {what} and seeds{several}.",
            f"The intervals are about other {what} of these classes and other seeds, not about "
            "other classes or data sets.",
        ]
        return sentences + [FEW[n] for n in sorted(set(members["seeds"].str.len())) if n in FEW]

    def _title(self, protocol: Protocol, members: pd.DataFrame) -> str:
        first = members.iloc[0]
        if not first["average"] or protocol.across == "dataset":
            what = table_name(first["ours"])
        else:
            average = average_name(first["ours"], first["of"])
            what = f"{protocol.title}, {average}"
        splits = " and ".join(sorted({row.split for row in members["ours"]}))
        metric = "mAP, " if first["ours"].main == "map" else ""
        name = with_marks(self.method, first["ours"].beyond)
        title = f"{what}: {metric}{name} minus each other on {splits} images"
        return in_detail(title, first, set().union(*members["seeds"]))

    def records(self) -> list[dict]:
        """Return each difference as plain numbers."""
        return self.differences.drop(columns=PLACE).to_dict("records")


def _cell(row) -> Cell:
    """Return the table cell of a difference."""
    if row.difference is None:
        return Cell("-")
    text = f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
    if row.p is not None:
        text += " p < 0.001" if row.p_holm < 0.001 else f" p {row.p_holm:.3f}"
    marks = ["one seed"] * (len(row.seeds) == 1)
    if row.low == row.high == 0:
        text = "equal"
    elif row.differing < LEAST:
        marks.append(f"{row.differing} images differ")
    text += f" ({', '.join(marks)})" if marks else ""
    incomplete = row.average and row.datasets < row.of
    return Cell(f"{text} ({row.datasets} of {row.of})" if incomplete else text)


def _basis(row: Any) -> dict:
    """Return what is named of the CLIP and test images of a row."""
    return {key: value for key, value in row.settings if key in FACTS.values()}


def _pairs(measured: pd.DataFrame, method: str) -> list[tuple[Any, Any]]:
    """Pair each row of a method with the rows of other methods in the same column of a table.

    Zero-shot rows pair with any number of shots.
    """
    return [
        (ours, theirs)
        for _, members in measured.groupby("table", sort=False)
        for _, own_line in members[members["name"] == method].groupby("line", sort=False)
        for _, other_line in members[members["name"] != method].groupby("line", sort=False)
        for ours, theirs in zip(each_row(own_line), each_row(other_line), strict=True)
        if ours.dataset == theirs.dataset
        and (ours.shots == theirs.shots or 0 in (ours.shots, theirs.shots))
    ]
