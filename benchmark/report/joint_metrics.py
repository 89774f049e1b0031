"""Metrics over base and new classes together: accuracies, costs, and averages over data sets."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from trainers.prompting.record.metrics import BINS

from ..protocols.base import shots_text
from ..records import COSTS, Metric
from .frame import apart_note, each_row
from .measured import Measured, averages_title, place_of, rows_to_average
from .per_image import each_seed, joint
from .published import AVERAGE
from .rows import count_text, of_seeds, rows, with_h
from .tables import (
    AVERAGE_NOTE,
    H_NOTE,
    Cell,
    Table,
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


def both(tidy: pd.DataFrame, bins: int = BINS) -> list[Measured]:
    """Return accuracies, joint metrics and costs on each data set, then averages over data sets.

    Returns:
        Numbers with the keys of JOINT.
    """
    halves = tidy[tidy["column"].isin(("base", "new"))]
    done = halves[(halves["metric"] == "accuracy") & halves["value"].notna()]
    if done.empty:
        return []
    table_rows = rows(halves[halves["line"].isin(done["line"])], beside_published=False)
    lines = table_rows[~table_rows["average"] & (table_rows["column"] == "h")]
    unit = lines[lines["name"] == RELATIVE_TO].drop_duplicates("table").set_index("table")
    for key in RELATIVE:
        theirs, ours = (members[key].astype(float) for members in (unit, lines))
        lines = lines.assign(**{key + TIMES: ours / lines["table"].map(theirs[theirs > 0])})
    costs = [*COSTS, *(key + TIMES for key in RELATIVE)]
    numbers, problems = _numbers(done, bins)
    lines = lines.assign(problems=lines["line"].map(problems))
    numbers = numbers.merge(lines[["line", "name", "dataset"]], on="line")
    notes = table_rows.assign(
        note=[*map(count_text, each_row(table_rows))], metric=table_rows["column"]
    )
    numbers = numbers.merge(notes[["line", "metric", "note"]], "left", ["line", "metric"])
    numbers["note"] = numbers["note"].fillna("")
    groups = []
    for _, members in lines.groupby("table", sort=False):
        row, values = next(each_row(members)), numbers[numbers["line"].isin(members["line"])]
        place = place_of(row, row.shots, BOTH)
        groups.append(
            Measured(table_name(row), place, protocol_of(row), members, values, more=costs)
        )
    for group, artists in rows_to_average(lines).items():
        for artist, datasets in artists.items():
            members = lines[(lines["group"] == group) & lines["dataset"].isin(datasets)]
            groups.append(_average(members, numbers[numbers["line"].isin(members["line"])], artist))
    return groups


def _numbers(done: pd.DataFrame, bins: int) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """Return a row for each line, seed and key of JOINT; and by line what is missing."""
    entries, problems = [], {}
    for line, members in done.groupby("line", sort=False):
        base, new = (
            members[members["column"] == half].set_index("seed")["outcome"].to_dict()
            for half in ("base", "new")
        )
        pairs = {seed: (base.get(seed), new.get(seed)) for seed in sorted(base | new)}
        by_seed, problems[line] = each_seed(pairs, partial(joint, bins=bins))
        entries += [(line, *item) for metrics in by_seed.values() for item in metrics.items()]
    columns = ["line", "metric", "value"]
    accuracies = of_seeds(done).rename_axis(index={"column": "metric"}).reset_index(name="value")
    return pd.concat([accuracies[columns], pd.DataFrame(entries, columns=columns)]), problems


def _average(lines: pd.DataFrame, numbers: pd.DataFrame, artist: str) -> Measured:
    """Return averages over data sets, with H from the averages; `artist` drew all, or is "".

    A data set counts for a method only if it has H there.
    """
    row, total = next(each_row(lines)), lines["dataset"].nunique()
    of_sets = numbers.groupby(["name", "dataset", "metric"])["value"].mean().unstack()
    of_sets = with_h(of_sets.reindex(columns=list(JOINT))).dropna(subset="h").groupby("name")
    means, counts = with_h(of_sets.mean()), of_sets.count()
    averages = means.melt(ignore_index=False, var_name="metric")
    averages["note"] = [f" ({n} of {total})" * (n < total) for n in counts.melt()["value"]]
    lines = lines.drop_duplicates("name")
    datasets = [int(counts["h"].get(name, 0)) for name in lines["name"]]
    lines = lines.assign(datasets=datasets, of=total, problems=[[] for _ in datasets])
    place = place_of(row, row.shots, BOTH) | {"dataset": AVERAGE, "artist": artist or None}
    where, fields = averages_title(row, total, artist), ("problems", "datasets", "of")
    return Measured(where, place, protocol_of(row), lines, averages.dropna().reset_index(), fields)


def joint_tables(measured: Measured, bins: int = BINS) -> Iterator[Table]:
    """Yield the tables of numbers that `both` returns: joint metrics, then costs, if shown."""
    first, what = next(each_row(measured.lines)), ": base and new classes together"
    shots = shots_text(first.shots)
    if measured.place["dataset"] == AVERAGE:
        notes = [AVERAGE_NOTE, H_NOTE, JOINT_NOTE.format(bins)]
        table = measured.table(f"{what}, {shots}", JOINT, notes)
        table.caption += apart_note(each_row(measured.lines))
        yield table
        return
    runs = f"{shots}, {seeds_text(first.seeds)}"
    spread = spread_note(measured.numbers.groupby(["line", "metric"]).size().max())
    problem_rows = measured.lines[["name", "problems"]].explode("problems").dropna()
    problems = [
        f"{', '.join(names)}: {why}"
        for why, names in problem_rows.groupby("problems", sort=False)["name"]
    ]
    notes = [spread, H_NOTE, JOINT_NOTE.format(bins)]
    yield measured.table(f"{what}, {runs}", JOINT, notes, problems)
    if measured.protocol.costs:
        note = "Training is the mean over the seeds."
        yield _costs(
            measured, measured.table(f": accuracy and cost, {runs}", H, [spread, H_NOTE, note])
        )


def _costs(measured: Measured, table: Table) -> Table:
    """Add the columns of costs to a table."""
    for line, row in zip(table.lines, each_row(measured.lines), strict=True):
        costs = more(row)
        for key, name in RELATIVE.items():
            times = getattr(row, key + TIMES)
            costs[f"{name}, x {RELATIVE_TO}"] = "-" if pd.isna(times) else f"{times:.2f}"
        line += map(Cell, costs.values())
    table.head += costs
    return table
