"""The differences of one method to all others, paired by test image, from what runs predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.prompting.errors import UserError, check_name

from ..protocols.base import Protocol, shots_text
from .answers import Answers, answers, classes, motifs
from .names import by_artist, dataset_title
from .paired import Difference, Pair, difference, holm
from .results import Outcome
from .tables import (
    Cell,
    Table,
    first_head,
    grouped,
    line_name,
    place_name,
    seeds_text,
    table_name,
)

if TYPE_CHECKING:
    import pandas as pd

DIFFERENCE = (
    "Difference in points [95% interval], and p, adjusted by Holm for the number of comparisons in "
    "its column."
)
ONE_SEED = "Where there is one seed, the interval is not about other seeds."
EACH_H = "H is computed for each seed."
AVERAGE = "Differences of the means over the data sets."
AVERAGE_H = "Differences of the means over the data sets; H is that of the averages."


# What may be resampled, with the reader of its names.
RESAMPLE: dict[str, Callable[[Outcome, str], list[str]]] = {"images": motifs, "classes": classes}


@dataclass
class Comparison:
    """One method beside another: on one data set, or on average over several.

    `rows` are those of both on each data set, `of` is the number of data
    sets of an average, and `artist` who drew them where others are averaged, too. `adjusted` is p
    after Holm.
    """

    theirs: str
    shots: int
    rows: list[tuple[Any, Any]]
    of: int | None = None
    artist: str = ""
    difference: Difference | None = None
    adjusted: float | None = None
    seeds: list[int] = field(default_factory=list)
    images: int = 0
    datasets: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ours(self):
        """Our row on the first data set."""
        return self.rows[0][0]

    @property
    def protocol(self) -> Protocol:
        """That of the rows."""
        return self.ours.protocol

    @property
    def table(self) -> tuple:
        """What the comparisons of one table have in common."""
        return (self.ours.table if self.of is None else self.ours.group), self.artist

    @property
    def place(self) -> str:
        """The head of its column in a table."""
        if self.protocol.across == "shots":
            return shots_text(self.shots)
        if self.protocol.across == "dataset" and self.of is not None:
            return "Average"
        return place_name(self.ours)

    @property
    def cell(self) -> Cell:
        """The difference in a table."""
        found = self.difference
        if found is None or self.adjusted is None:
            return Cell("-")
        p = "p < 0.001" if self.adjusted < 0.001 else f"p {self.adjusted:.3f}"
        text = f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}] {p}"
        missing = self.of is not None and self.datasets < self.of
        return Cell(f"{text} ({self.datasets} of {self.of})" if missing else text)


class Comparisons:
    """All comparisons of one method with the others of the same tables.

    Args:
        rows: of any protocols.
        method: the name of a line in their tables.
        resample: a key of RESAMPLE.

    Raises:
        UserError: no line has this name, or there is no other method beside it.
    """

    def __init__(self, rows: pd.DataFrame, method: str, resample: str = "images"):
        """Compare; what cannot be compared is noted."""
        self.method, self.resample = method, resample
        measured = rows[~rows["average"]]
        tables = [_named(members) for _, members in measured.groupby("table", sort=False)]
        names = [name for members in tables for name, _ in members]
        check_name("method to compare", method, list(dict.fromkeys(names)))
        single = [found for members in tables for found in _single(members, method)]
        if not single:
            raise UserError(f"--compare: there is no other method beside {method}")
        self._names: dict[str, int] = {}  # the number of each unit
        self._units: dict[tuple, np.ndarray] = {}  # those of each set of test images
        self.found = single + _averages(single, measured)
        for comparison in self.found:
            self._compute(comparison)
        for members in grouped(self.found, lambda c: (c.table, c.place)):
            known = [c for c in members if c.difference]
            for comparison, p in zip(known, holm([c.difference.p for c in known]), strict=True):
                comparison.adjusted = p

    def _compute(self, comparison: Comparison) -> None:
        """Fill in the difference, as far as there are predictions."""
        blocks, all_seeds = [], set()
        for ours, theirs in comparison.rows:
            block, seeds, problems = self._block(ours, theirs)
            comparison.problems += problems
            if block is not None:
                blocks.append(block)
                all_seeds.update(seeds)
                comparison.images += sum(len(pair.units) for pair in block)
        comparison.datasets, comparison.seeds = len(blocks), sorted(all_seeds)
        if blocks:
            comparison.difference = difference(blocks, comparison.of is not None)

    def _block(self, ours, theirs):
        """Two methods on one data set, or None; the seeds that both have; what is missing."""
        found, problems = [], []
        for column in ours.runs:
            for row in (ours, theirs):
                answered, missing = answers(row.runs[column])
                where = f"{line_name(row)}, {_where(row, [column])}"
                problems += [f"{where}: {why} [{seeds_text(of)}]" for why, of in missing.items()]
                if not row.runs[column]:
                    problems.append(f"{where}: no finished run")
                found.append((row, answered))
        if not all(answered for _, answered in found):
            return None, [], problems
        trained = [set(answered) for row, answered in found if not row.untrained]
        seeds = sorted(set.intersection(*trained)) if trained else ours.seeds[:1]
        where = f"{line_name(theirs)}, {_where(theirs, theirs.runs)}"
        if not seeds:
            problems.append(f"{where}: no seed that {self.method} has, too")
            return None, [], problems
        if trained and len(seeds) < len(ours.seeds):
            problems.append(f"{where}: {len(seeds)} of {len(ours.seeds)} seeds")
        block = []
        for column, both in zip(ours.runs, zip(found[::2], found[1::2], strict=True), strict=True):
            runs = [_of_seeds(row, answered, seeds) for row, answered in both]
            if len({run.images for of_method in runs for run in of_method}) > 1:
                what = f"other test images, or labels, than {self.method} or than other seeds"
                return None, [], [*problems, f"{where}: {what}"]
            (_, answered), _ = both
            outcome = ours.runs[column][next(iter(answered))]
            units = self._numbers(outcome, column, runs[0][0].images)
            hits = [np.stack([run.hits for run in of_method]) for of_method in runs]
            block.append(Pair(units, np.array(seeds), *hits))
        return block, seeds, problems

    def _numbers(self, outcome: Outcome, column: str, images: str) -> np.ndarray:
        """The number of what each of these images stands for: of its motif or class."""
        key = outcome.run.dataset, column, images
        if key not in self._units:
            names = RESAMPLE[self.resample](outcome, column)
            number = [self._names.setdefault(name, len(self._names)) for name in names]
            self._units[key] = np.array(number)
        return self._units[key]

    def tables(self) -> dict[Protocol, list[Table]]:
        """The tables of each protocol: a line for each other method."""
        found = defaultdict(list)
        for members in grouped(self.found, lambda comparison: comparison.table):
            found[members[0].protocol].append(self._table(members))
        return dict(found)

    def _table(self, members: list[Comparison]) -> Table:
        places = list(dict.fromkeys(comparison.place for comparison in members))
        lines = []
        for theirs in dict.fromkeys(comparison.theirs for comparison in members):
            cells = {c.place: c.cell for c in members if c.theirs == theirs}
            lines.append([Cell(theirs), *(cells.get(place, Cell("-")) for place in places)])
        protocol, average = members[0].protocol, members[0].of is not None
        caption = [DIFFERENCE, *self._resampled(members)]
        if "h" in protocol.columns:
            caption.append(AVERAGE_H if average else EACH_H)
        elif average:
            caption.append(AVERAGE)
        problems = list(dict.fromkeys(what for c in members for what in c.problems))
        head = [first_head(protocol), *places]
        return Table(self._title(members), head, lines, caption, problems)

    def _resampled(self, members: list[Comparison]) -> list[str]:
        """Sentences on what was resampled in a table, and so on what its intervals are about."""
        what = "classes" if self.resample == "classes" else "images"
        if what == "images" and members[0].ours.embedded:
            what = "motifs"
        several = any(comparison.of for comparison in members)
        of, nor = ("", "") if what == "classes" else (" of these classes", "classes or ")
        sentences = [
            f"Resampled: {what} and seeds{', each in all data sets at once' if several else ''}.",
            f"The intervals are about other {what}{of} and other seeds, not about other {nor}"
            "data sets.",
        ]
        if any(len(comparison.seeds) == 1 for comparison in members):
            sentences.append(ONE_SEED)
        return sentences

    def _title(self, members: list[Comparison]) -> str:
        first, ours = members[0], members[0].ours
        protocol, splits = first.protocol, set().union(*(c.ours.splits for c in members))
        if first.of is None or protocol.across == "dataset":
            what = table_name(ours)
        else:
            kind = f"{first.artist} " if first.artist else "embedded " if ours.embedded else ""
            what = f"{protocol.title}, average over {first.of} {kind}data sets"
        details = [
            f"{what}: {self.method} minus each other on {' and '.join(sorted(splits))} images"
        ]
        if protocol.across != "shots" and first.shots:
            details.append(shots_text(first.shots))
        if seeds := sorted({seed for comparison in members for seed in comparison.seeds}):
            details.append(seeds_text(seeds))
        return ", ".join(details)

    def records(self) -> list[dict]:
        """Each difference with plain numbers, for machines."""
        found = []
        for comparison in self.found:
            ours, many = comparison.ours, comparison.of
            values = comparison.difference._asdict() if comparison.difference else {}
            found.append({
                "protocol": ours.protocol.name,
                "source": ours.source,
                "dataset": ours.dataset if many is None else "average",
                "embedded": ours.embedded,
                "artist": comparison.artist or None,
                "datasets": comparison.datasets,
                "of": 1 if many is None else many,
                "shots": comparison.shots,
                "column": comparison.ours.column,
                "method": self.method,
                "other": comparison.theirs,
                "difference": values.get("value"),
                "low": values.get("low"),
                "high": values.get("high"),
                "p": values.get("p"),
                "p_holm": comparison.adjusted,
                "resampled": self.resample,
                "seeds": comparison.seeds,
                "images": comparison.images,
                "problems": comparison.problems,
            })  # fmt: skip
        return found


def _named(members: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    """The lines of a table: the name of each, and its rows, one for each column."""
    several = members["method"].nunique() > 1
    lines = [list(line.itertuples()) for _, line in members.groupby("line", sort=False)]
    return [(line_name(line[0], several), line) for line in lines]


def _single(members: list[tuple[str, list[Any]]], method: str) -> list[Comparison]:
    """The comparisons with a method in one table, each on one data set."""
    return [
        Comparison(name, max(ours.shots, theirs.shots), [(ours, theirs)])
        for mine, our_line in members
        for name, their_line in members
        if mine == method != name
        for ours, theirs in zip(our_line, their_line, strict=True)
        if _side_by_side(ours, theirs)
    ]


def _side_by_side(ours, theirs) -> bool:
    """Whether two rows of one table belong to one column; no shots stand beside any number."""
    across = ours.protocol.across
    if across == "dataset":
        return ours.dataset == theirs.dataset
    if across == "shots":
        return ours.shots == theirs.shots or 0 in (ours.shots, theirs.shots)
    return True


def _averages(single: list[Comparison], rows: pd.DataFrame) -> list[Comparison]:
    """The comparisons over all data sets of a group, wherever there are several.

    Where artists drew them, those over the data sets of each artist follow.
    """
    targets = rows[rows["dataset"] != rows["source"]]
    datasets = targets.groupby("group")["dataset"].agg(set).to_dict()
    groups = defaultdict(list)
    for comparison in single:
        row = comparison.ours
        if row.dataset != row.source and len(datasets[row.group]) > 1:
            key = row.group, comparison.theirs, comparison.shots, row.column
            groups[key].append(comparison)
    found = []
    for (group, theirs, shots, _), members in groups.items():
        averaged = {"": datasets[group]}
        if members[0].protocol.across != "dataset":  # there the average is a column
            averaged |= by_artist(datasets[group])
        for artist, names in averaged.items():
            pairs = [pair for c in members for pair in c.rows if pair[0].dataset in names]
            if pairs:
                found.append(Comparison(theirs, shots, pairs, len(names), artist))
    return found


def _of_seeds(row, answered: dict[int, Answers], seeds: list[int]) -> list[Answers]:
    """Of each seed; one run of an untrained method stands for all."""
    if row.untrained:
        return [next(iter(answered.values()))] * len(seeds)
    return [answered[seed] for seed in seeds]


def _where(row, columns) -> str:
    """Where in the tables, in words."""
    shots = [shots_text(row.shots)] if row.protocol.across == "shots" else []
    names = [row.protocol.columns[column] for column in columns]
    return ", ".join([dataset_title(row.dataset), *shots, *names])
