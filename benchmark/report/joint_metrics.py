"""Metrics over base and new classes together: accuracies, costs, and averages over data sets."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from trainers.prompting.record.metrics import BINS

from ..protocols.base import shots_text
from ..records import COSTS, Metric
from .frame import apart_note, each_row
from .grids import Grid, place_of
from .per_image import each_seed, joint
from .published import AVERAGE
from .summary import count_text, sets_to_average, summarise
from .tables import (
    AVERAGE_NOTE,
    H_NOTE,
    Cell,
    Table,
    average_name,
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
    "Joint, ECE (expected calibration error, in {} bins) and ECE scaled (after division of the "
    "logits by a temperature) are over all classes; OpenworldAUC and AUROC over pairs of a base "
    "and a new image. All in %."
)
BOTH = "base and new"  # the column of records
RELATIVE_TO = "CoOp"  # costs are multiples of this method's
TIMES = "_x_coop"
H = {"h": JOINT["h"]}
RELATIVE = {key: cost.head for key, cost in COSTS.items() if cost.multiples}


def both(tidy: pd.DataFrame, bins: int = BINS) -> list[Grid]:
    """Return accuracies, joint metrics and costs on each data set, then averages over data sets.

    Returns:
        Numbers with the keys of JOINT.
    """
    halves = tidy[tidy["column"].isin(("base", "new")) & (tidy["metric"] == "accuracy")]
    done = halves[halves["value"].notna()]
    if done.empty:
        return []
    scores, problems = _scores(done, bins)
    halves = halves[halves["line"].isin(done["line"])]
    numbers = summarise(halves, beside_published=False, scores=scores)
    accuracies = numbers["metric"] == "accuracy"
    numbers["metric"] = numbers["metric"].where(~accuracies, numbers["column"])
    noted = accuracies | numbers["average"]
    numbers["note"] = [count_text(row) for row in each_row(numbers)]
    numbers["note"] = numbers["note"].where(noted, "")
    lines = numbers[(numbers["metric"] == "h") & ~numbers["average"]]
    unit = lines[lines["name"] == RELATIVE_TO].drop_duplicates("table").set_index("table")
    for key in RELATIVE:
        theirs, ours = (members[key].astype(float) for members in (unit, lines))
        lines = lines.assign(**{key + TIMES: ours / lines["table"].map(theirs[theirs > 0])})
    lines = lines.assign(problems=lines["line"].map(problems))
    grids, costs = [], [*COSTS, *(key + TIMES for key in RELATIVE)]
    for _, members in lines.groupby("table", sort=False):
        row = next(each_row(members))
        own = numbers[numbers["line"].isin(members["line"])]
        grids.append(
            Grid(table_name(row), place_of(row, row.shots, BOTH), members, own, more=costs)
        )
    for group, by_artist in sets_to_average(numbers).items():
        for artist, datasets in by_artist.items():
            members = lines[(lines["group"] == group) & lines["dataset"].isin(datasets)]
            own = numbers[(numbers["table"] == group) & (numbers["artist"] == artist)]
            row, counts = next(each_row(members)), own.drop_duplicates("name").set_index("name")
            members = members.drop_duplicates("name")
            members = members.assign(
                datasets=members["name"].map(counts["count"]), of=len(datasets),
                problems=[[] for _ in range(len(members))],
            )  # fmt: skip
            place = place_of(row, row.shots, BOTH) | {"dataset": AVERAGE, "artist": artist or None}
            average = average_name(row, len(datasets), artist)
            where = f"{protocol_of(row).title}, {average}"
            grids.append(Grid(where, place, members, own, ("problems", "datasets", "of")))
    return grids


def _scores(done: pd.DataFrame, bins: int) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """Return a row for each training and metric over both halves; and by line what is missing."""
    entries, problems = [], {}
    for line, members in done.groupby("line", sort=False):
        base, new = (
            members[members["column"] == half].set_index("seed")["outcome"].to_dict()
            for half in ("base", "new")
        )
        pairs = {seed: (base.get(seed), new.get(seed)) for seed in sorted(base | new)}
        by_seed, problems[line] = each_seed(pairs, partial(joint, bins=bins))
        entries += [(line, BOTH, *item) for metrics in by_seed.values() for item in metrics.items()]
    scores = pd.DataFrame(entries, columns=["line", "column", "metric", "value"])
    return scores.astype({"value": float}), problems


def joint_tables(grid: Grid, bins: int = BINS) -> Iterator[Table]:
    """Yield the tables of numbers that `both` returns: joint metrics, then costs, if shown."""
    first, what = next(each_row(grid.lines)), ": base and new classes together"
    shots = shots_text(first.shots)
    if grid.place["dataset"] == AVERAGE:
        notes = [AVERAGE_NOTE, H_NOTE, JOINT_NOTE.format(bins)]
        table = grid.table(f"{what}, {shots}", JOINT, notes)
        table.caption += apart_note(each_row(grid.lines))
        yield table
        return
    runs = f"{shots}, {seeds_text(first.seeds)}"
    spread = spread_note(grid.numbers["count"].max())
    problem_rows = grid.lines[["name", "problems"]].explode("problems").dropna()
    problems = [
        f"{', '.join(names)}: {why}"
        for why, names in problem_rows.groupby("problems", sort=False)["name"]
    ]
    notes = [spread, H_NOTE, JOINT_NOTE.format(bins)]
    yield grid.table(f"{what}, {runs}", JOINT, notes, problems)
    if grid.protocol.costs:
        note = "Training is the mean over the seeds."
        yield _costs(grid, grid.table(f": accuracy and cost, {runs}", H, [spread, H_NOTE, note]))


def _costs(grid: Grid, table: Table) -> Table:
    """Add the columns of costs to a table."""
    for line, row in zip(table.lines, each_row(grid.lines), strict=True):
        costs = more(row)
        for key, name in RELATIVE.items():
            times = getattr(row, key + TIMES)
            costs[f"{name}, x {RELATIVE_TO}"] = "-" if pd.isna(times) else f"{times:.2f}"
        line += map(Cell, costs.values())
    table.head += costs
    return table
