"""From outcomes of runs to rows of numbers."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from statistics import mean, stdev
from typing import NamedTuple

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol, Run, learns_nothing
from . import methods as known
from . import published
from .logs import LogRun
from .names import DATASETS, embedded
from .results import Outcome

# Runs that differ in other ways share a row.
SAME_ROW = attrgetter(
    "protocol", "source", "dataset", "shots", "trainer", "label", "config", "variant"
)


@dataclass
class Row:
    """One method on one data set; in few-shot, with one number of shots; in an ablation, a variant.

    `values` holds, for each column of the protocol, the number of each seed that has one, and
    `outcomes` the run that it is of; `seeds` are those that any method of the same table was run
    with. `method` is the name in the tables, `label` that of a method that is known from logs.
    Where a method is `untrained`, seed and shots make no difference. `comparable` rows may stand
    beside published numbers.
    """

    protocol: Protocol
    source: str
    dataset: str
    shots: int
    trainer: str
    label: str
    config: str
    variant: str
    untrained: bool
    interval: bool = False
    seeds: list[int] = field(default_factory=list)
    method: str = ""
    values: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=lambda: defaultdict(dict))
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    num_params: int | None = None
    train_seconds: list[float] = field(default_factory=list)
    peak_memory: float | None = None
    splits: set[str] = field(default_factory=set)
    backbones: set[str] = field(default_factory=set)
    comparable: bool = False

    @property
    def settings(self) -> dict[str, float | str]:
        """What the variant of an ablation sets."""
        return settings(self.variant)

    @property
    def name(self) -> str:
        """The method and, in an ablation, what its variant sets."""
        return ", ".join([self.method, *setting_texts(self.settings)])

    @property
    def tried(self) -> str:
        """What it is that the variant tries: `beta`, `M and N`."""
        return " and ".join(self.settings)

    @property
    def embedded(self) -> bool:
        """Whether the data set is one of those that come with the repository."""
        return embedded(self.dataset)

    @property
    def group(self) -> tuple:
        """What the rows have in common over whose data sets an average may be taken."""
        if self.protocol.across == "dataset":  # the average is over the columns of a table
            return self.protocol, self.source, self.shots
        shots = None if self.protocol.across == "shots" else self.shots
        return self.protocol, self.embedded, shots, self.tried

    @property
    def table(self) -> tuple:
        """What the rows of one table have in common."""
        if self.protocol.across == "dataset":
            return self.group
        return (*self.group, self.dataset)

    @property
    def count(self) -> int:
        """How many seeds the column with the most has."""
        return max(map(len, self.values.values()), default=0)

    def mean(self, column: str) -> float | None:
        """The mean over the seeds."""
        values = self.values[column].values()
        return mean(values) if values else None

    def std(self, column: str) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        values = self.values[column].values()
        return stdev(values) if len(values) > 1 else None

    def half_interval(self, column: str) -> float | None:
        """Half of the 95% interval of the mean, by Student's t; None for fewer than two seeds."""
        from scipy.special import stdtrit

        count = len(self.values[column])
        if count < 2:
            return None
        return float(stdtrit(count - 1, 0.975)) * self.std(column) / count**0.5

    def spread(self, column: str) -> float | None:
        """What stands behind `±`."""
        return self.half_interval(column) if self.interval else self.std(column)

    def complete(self, column: str) -> bool:
        """Whether no seed is missing."""
        count = len(self.values[column])
        return count > 0 if self.untrained else count == len(self.seeds)

    def cell(self, column: str) -> "Cell":
        """`mean ± spread`, with the number of seeds when some are missing; or what went wrong."""
        count = len(self.values[column])
        if not count:
            problems = self.problems[column]
            return Cell(problems[0].partition(":")[0] if problems else "-")
        spread = self.spread(column)
        text = f"{self.mean(column):.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
        if self.complete(column):
            return Cell(text, self.mean(column))
        return Cell(f"{text} ({count} of {len(self.seeds)})")


class Cell(NamedTuple):
    """A cell of a table; those with a `value` compete for the best of their column.

    The first of a line is `beside` where the line is not ours: of published numbers, or what ours
    differ from them by.
    """

    text: str
    value: float | None = None
    beside: bool = False


def harmonic(base: float, new: float) -> float:
    """H, the harmonic mean of the accuracies on base and new classes."""
    return 2 * base * new / (base + new) if base + new else 0.0


def rows(
    outcomes: Iterable[Outcome], interval: bool = False, beside_published: bool = True
) -> list[Row]:
    """The rows of all outcomes, in the order of the tables.

    Args:
        outcomes: of any protocols.
        interval: a 95% interval is shown in place of the standard deviation.
        beside_published: published numbers are shown beside those that are comparable.

    Raises:
        UserError: a file of published numbers has a wrong line.
    """
    outcomes = list(outcomes)
    untrained = _untrained(outcomes)
    found: dict[tuple, Row] = {}
    for outcome in outcomes:
        run, result = outcome.run, outcome.result
        row = _row(run, run.trainer in untrained, interval)
        row = found.setdefault(SAME_ROW(row), row)
        row.seeds.append(run.seed)
        column = run.protocol.parts[run.part].column
        if result is None:
            row.problems[column].append(f"{outcome.problem} [seed {run.seed}]")
            continue
        row.values[column][run.seed] = result["accuracy"]
        row.outcomes[column][run.seed] = outcome
        row.splits.add(result.get("split") or "test")
        row.backbones.add(result.get("backbone"))
        if not run.eval_only:
            _add_training(row, result)
    for row in found.values():
        for seed in row.values["base"].keys() & row.values["new"].keys():
            row.values["h"][seed] = harmonic(row.values["base"][seed], row.values["new"][seed])
    listed = _in_every_table(list(found.values()))
    _name(listed)
    seeds = defaultdict(set)
    for row in listed:
        if not row.untrained:
            seeds[row.table].update(row.seeds)
    for row in listed:
        row.seeds = sorted(seeds[row.table] or set(row.seeds))
        row.comparable = beside_published and published.comparable(row)
    return sorted(listed, key=_order)


def _untrained(outcomes: list[Outcome]) -> set[str]:
    """The methods that learn nothing: results tell, or else the name."""
    found = {}
    for outcome in outcomes:
        trainer, result = outcome.run.trainer, outcome.result or {}
        if result.get("num_params") is not None:
            found[trainer] = result["num_params"] == 0
        else:
            found.setdefault(trainer, learns_nothing(trainer))
    return {trainer for trainer, untrained in found.items() if untrained}


def _row(run: Run, untrained: bool, interval: bool) -> Row:
    """The row of a run, without numbers."""
    free = untrained and run.protocol.untrained_once
    return Row(
        protocol=run.protocol,
        source=run.source,
        dataset=run.dataset,
        shots=0 if free else run.shots,
        trainer=run.trainer,
        label=run.label if isinstance(run, LogRun) else "",
        config=run.config,
        variant=run.variant,
        untrained=untrained or run.shots == 0,
        interval=interval,
    )


def _add_training(row: Row, result: dict) -> None:
    """What a training took; logs do not tell, and without training there is nothing to tell."""
    row.num_params = result.get("num_params")
    if result.get("train_seconds") is not None:
        row.train_seconds.append(result["train_seconds"])
    if result.get("peak_memory_mib") is not None and not row.untrained:
        row.peak_memory = max(row.peak_memory or 0.0, result["peak_memory_mib"])


def _name(listed: list[Row]) -> None:
    """Name the methods; with their config where one table has several of it."""
    configs = defaultdict(set)
    for row in listed:
        configs[row.table, row.shots, row.trainer, row.label].add(row.config)
    ours = {row.trainer for row in listed if not row.label}
    for row in listed:
        row.method = f"{row.label} (logs)" if row.label in ours else row.label or row.trainer
        if len(configs[row.table, row.shots, row.trainer, row.label]) > 1:
            row.method += f" ({row.config})"


def _in_every_table(listed: list[Row]) -> list[Row]:
    """Of transfer, the untrained methods stand in the table of each number of shots."""
    shots = defaultdict(set)
    for row in listed:
        if row.shots:
            shots[row.protocol, row.source].add(row.shots)
    placed = []
    for row in listed:
        numbers = {row.shots}
        if row.protocol.across == "dataset" and row.shots == 0:
            numbers = shots[row.protocol, row.source] or numbers
        placed += [replace(row, shots=number) for number in numbers]
    return placed


def _order(row: Row) -> tuple:
    names = list(DATASETS)
    place = names.index(row.dataset) if row.dataset in names else len(names)
    protocol = list(PROTOCOLS.values()).index(row.protocol)
    dataset = (row.embedded, row.dataset != row.source, place, row.dataset)
    return protocol, row.source, *dataset, row.shots, method_order(row)


def method_order(row: Row) -> tuple:
    return known.rank(row.trainer), row.label, row.config, list(row.settings.items())


def settings(variant: str) -> dict[str, float | str]:
    """What a variant sets: `M2_N4` is M = 2 and N = 4, `plan-uniform` is plan = uniform."""
    found = re.findall(r"([A-Za-z-]+?)(?:([\d.]+)|-([a-z]+))(?=_|$)", variant)
    return {
        name.replace("-", " "): float(number) if number else word for name, number, word in found
    }


def setting_texts(found: dict[str, float | str]) -> list[str]:
    """Each of `settings` in words: `M = 2`."""
    return [
        f"{name} = {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in found.items()
    ]


def methods(members: list[Row]) -> list[str]:
    """The methods in their order, also those that miss the first data set or number of shots."""
    return list(dict.fromkeys(row.method for row in sorted(members, key=method_order)))
