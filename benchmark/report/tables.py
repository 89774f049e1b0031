"""Build tables from rows: one for every data set, and one for the averages over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..protocols.base import Protocol
from ..records import COSTS
from . import published
from .frame import each_row
from .names import rank
from .notes import (
    SPREADS,
    caption,
    data_name,
    few_note,
    place_name,
    seeds_of,
    spread_note,
    title_of,
)
from .summary import (
    BOTH,
    count_text,
    metric_of,
    minus_published,
    number_or_none,
    own_name,
    protocol_of,
    published_beside,
)
from .table import Cell, Table

if TYPE_CHECKING:
    import pandas as pd

MISPRINT = "(misprint)"


def tables(rows: pd.DataFrame, all_published: bool = False) -> dict[Protocol, list[Table]]:
    """Return the tables of each protocol that has rows, a table for each data set and metric.

    Of each metric, averages over the data sets come last. With `all_published`, methods that were
    not run have their published numbers, too.
    """
    by_protocol = defaultdict(list)
    for _, members in rows.groupby(["metric", "table"], sort=False):
        by_protocol[protocol_of(members)].append(_table(list(each_row(members)), all_published))
    return dict(by_protocol)


def joint_tables(
    rows: pd.DataFrame, all_published: bool = False
) -> Iterator[tuple[str, list[str], list[Table]]]:
    """Yield title, caption and tables of what is one table in LaTeX, averages first."""
    for _, members in rows.groupby(["metric", "group"], sort=False):
        (group,) = tables(members, all_published).values()
        group.sort(key=lambda table: not table.of_averages)
        if len(group) == 1:
            yield group[0].title, group[0].caption, group
            continue
        ordered = sorted(each_row(members), key=lambda row: row.average)
        sentences = dict.fromkeys(chain.from_iterable(table.caption for table in group))
        others = [text for text in sentences if text not in SPREADS]
        spread = spread_note(seeds_of(ordered), ordered[0])
        yield title_of(ordered), [spread, *others], group


def _table(rows: list[Any], all_published: bool) -> Table:
    """Return a table with a line for each method and setting.

    Its columns are those of the protocol, data sets, or numbers of shots: see `Protocol.across`.
    Costs and published numbers are beside accuracies.
    """
    protocol, columns = protocol_of(rows[0]), [*protocol_of(rows[0]).columns, BOTH]
    rows.sort(key=lambda row: (row.average, row.shots, columns.index(row.column)))
    first, seeds, plain = rows[0], seeds_of(rows), rows[0].metric == "accuracy"
    places: dict[str, Any] = {}  # by head, the first row of any method
    methods: dict[Any, dict[str, Any]] = defaultdict(dict)  # by line, its rows by head
    for row in sorted(rows, key=lambda row: row.rank):
        methods[row.line if protocol.across == "columns" else row.name][place_name(row)] = row
    for row in rows:
        places.setdefault(place_name(row), row)
    head = ["Method", *places, *more(first)]
    lines: list[list[Cell]] = []
    cited: list[str] = []  # methods of lines of published numbers
    for by_head in methods.values():
        row = next(iter(by_head.values()))
        ours = [by_head.get(place) for place in places]
        cells = map(_of_one_run if plain and seeds < 2 else _ours, ours)
        name = Cell(published.with_marks(row.name, row.beyond))
        lines.append([name, *cells, *map(Cell, more(row).values())])
        if theirs := _published_line(row.name, own_name(row), ours):
            cited.append(own_name(row))
            name = Cell(f"{row.name}, difference", beside=True)
            lines += [theirs, [name, *map(_difference, ours)]]
    group = first.group_published
    others = published.trainers(protocol, group) if all_published else []
    for trainer in sorted(set(others) - set(map(own_name, rows)), key=rank):
        if theirs := _published_line(trainer, trainer, places.values()):
            cited.append(trainer)
            lines.append(theirs)
    lines = [line + [Cell("")] * (len(head) - len(line)) for line in lines]
    marks = set().union(*(row.beyond for row in rows))
    sentences = caption(rows) + published.caption(protocol, cited, marks, group)
    if any(cell.text.endswith(MISPRINT) for line in lines for cell in line):
        sentences.append(published.MISPRINT)
    comparable = {row.trainer for row in rows if row.comparable}
    if not group and "ALIGN" in comparable and "ALIGN" not in published.trainers(protocol):
        sentences.append(published.NO_ALIGN)
    problems = [
        problem if row.average else f"{row.name}, {place}: {problem}"
        for row in rows
        if row.average == first.average  # those of a column of averages repeat the others
        for place in [row.column if protocol.across == "columns" else place_name(row)]
        for problem in row.problems
    ]
    remarks = few_note(rows, any("±" in cell.text for line in lines for cell in line))
    place = data_name(first)
    return Table(
        title_of(rows), head, lines, sentences, problems, remarks,
        place[0].upper() + place[1:] if first.average else place, first.average,
    )  # fmt: skip


def _ours(row: Any) -> Cell:
    """Return the mean and spread, with the count if seeds or data sets are missing; or why not."""
    if row is None or number_or_none(row.mean) is None:
        problems = row.problems if row else []
        return Cell(problems[0].partition(":")[0] if problems else "-")
    spread, metric = number_or_none(row.spread), metric_of(row.metric)
    text = metric.text(row.mean)
    value = float(text) if metric.more_is_better else -float(text)
    text += "" if spread is None else f" ± {metric.text(spread)}"
    competes = row.complete and metric.more_is_better is not None
    return Cell(text + count_text(row), value if competes else None)


def _of_one_run(row: Any) -> Cell:
    """Return the same with the number of test images, unless the number is an average or H."""
    images = None if row is None or row.average else number_or_none(row.images)
    return _ours(row)._replace(images=images and int(images))


def _published_line(name: str, trainer: str, rows: Iterable[Any]) -> list[Cell]:
    """Return the line of a method's published numbers in the places of these rows, if any."""
    pairs = [(row, row and published_beside(row, trainer)) for row in rows]
    first = next((theirs for _, theirs in pairs if theirs), None)
    if first is None:
        return []
    text = published.with_marks(f"{name}, published", published.in_order(first.kinds))
    cells = [_theirs(x.values[row.column], x.misprint) if x else Cell("-") for row, x in pairs]
    return [Cell(text, beside=True), *cells]


def _theirs(number: float, misprint: bool) -> Cell:
    text = f"{number:.2f} {MISPRINT}" if misprint else f"{number:.2f}"
    return Cell(text, None if misprint else number)


def _difference(row: Any) -> Cell:
    number = None if row is None else minus_published(row)
    # + 0.0 turns -0.00 into 0.00
    return Cell("-" if number is None else f"{round(number, 2) + 0.0:+.2f}")


def more(row: Any) -> dict[str, str]:
    """Return the columns after the numbers: the data sets of an average, or costs of training."""
    protocol = protocol_of(row)
    if row.average:
        columns = {"Data sets": f"{row.count} of {row.of}"}
        return columns if protocol.across == "columns" else {}
    if not protocol.costs or row.metric != row.main:
        return {}
    values = {key: number_or_none(getattr(row, key)) for key in COSTS}
    return {
        cost.head: "-" if values[key] is None else cost.text(values[key])
        for key, cost in COSTS.items()
        if cost.everywhere
    }
