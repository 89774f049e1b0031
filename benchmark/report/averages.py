"""The averages of rows over data sets."""

from collections import defaultdict
from statistics import mean
from typing import NamedTuple

from ..protocols.base import Protocol, shots_text
from . import published
from .rows import Cell, Row, harmonic, method_order, settings


class Average(NamedTuple):
    """The means of one method over those `datasets` of a group's `of` that have all columns.

    A `comparable` one is over the data sets of the papers.
    """

    group: tuple
    method: str
    trainer: str
    shots: int
    variant: str
    embedded: bool
    datasets: int
    of: int
    means: dict[str, float]
    problems: list[str]
    comparable: bool

    dataset = published.AVERAGE

    @property
    def protocol(self) -> Protocol:
        """That of the group."""
        return self.group[0]

    @property
    def settings(self) -> dict[str, float | str]:
        """What the variant of an ablation sets."""
        return settings(self.variant)

    def __str__(self) -> str:
        return f"average over {self.of} {'embedded ' if self.embedded else ''}data sets"

    def mean(self, column: str) -> float | None:
        """The mean, if no data set is missing."""
        return self.means[column] if self.datasets == self.of else None

    def cell(self, column: str) -> Cell:
        """The mean, with the number of data sets when some are missing."""
        if not self.datasets:
            return Cell("-")
        text = f"{self.means[column]:.2f}"
        if self.datasets == self.of:
            return Cell(text, self.means[column])
        return Cell(f"{text} ({self.datasets} of {self.of})")


def averages(listed: list[Row]) -> list[Average]:
    """The averages over data sets, wherever there are several; H is that of the averages."""
    groups, averaged = defaultdict(set), defaultdict(list)
    for row in sorted(listed, key=method_order):
        if row.dataset != row.source:
            groups[row.group].add(row.dataset)
            averaged[row.group, row.method, row.shots, row.variant].append(row)
    found = []
    for (group, *what), members in averaged.items():
        if len(groups[group]) < 2:
            continue
        columns = list(members[0].protocol.columns)
        whole = [row for row in members if all(row.values[column] for column in columns)]
        means = {}
        if whole:
            means = {column: mean(row.mean(column) for row in whole) for column in columns}
        if "h" in means:
            means["h"] = harmonic(means["base"], means["new"])
        last = columns[-1]  # of base, new and h that which needs the others
        problems = [
            f"{row.name}, {row.dataset}, {shots_text(row.shots)}: a mean over "
            f"{len(row.values[last])} of {len(row.seeds)} seeds"
            for row in whole
            if not row.complete(last)
        ]
        method, shots, variant = what
        papers = published.datasets(group[0]) - {members[0].source}
        found.append(
            Average(
                group=group,
                method=method,
                trainer=members[0].trainer,
                shots=shots,
                variant=variant,
                embedded=members[0].embedded,
                datasets=len(whole),
                of=len(groups[group]),
                means=means,
                problems=problems,
                comparable=groups[group] == papers and all(row.comparable for row in members),
            )
        )
    return found
