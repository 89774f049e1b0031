"""Tables over base and new classes together: accuracies, costs, and averages over data sets."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd

from ..protocols.base import Protocol, shots_text
from ..records import Metric
from .answers import each_seed, joint
from .frame import apart_note, each_row
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
TIMES = "_x_coop"
RELATIVE = {"train_seconds": "Training", "step_seconds": "Step", "peak_memory_mib": "Memory"}


class Both:
    """Metrics over base and new classes: accuracies, costs, and averages over data sets.

    Args:
        tidy: rows of a data frame as `frame` makes it, with accuracies on base or new classes.

    Attributes:
        lines: a row for each line of the tables, with its costs as multiples of CoOp's, and
            sentences on what is missing as `problems`.
        numbers: a row for each line, seed and key of JOINT.
    """

    def __init__(self, tidy: pd.DataFrame):
        done = tidy[(tidy["metric"] == "accuracy") & tidy["value"].notna()]
        listed = rows(tidy[tidy["line"].isin(done["line"])], beside_published=False)
        lines = listed[~listed["average"] & (listed["column"] == "h")]
        unit = lines[lines["name"] == RELATIVE_TO].drop_duplicates("table").set_index("table")
        for key in RELATIVE:
            cost, costs = (of[key].astype(float) for of in (unit, lines))
            lines = lines.assign(**{key + TIMES: costs / lines["table"].map(cost[cost > 0])})
        found, problems = [done.assign(metric=done["column"])], {}
        for line, members in done.groupby("line", sort=False):
            base, new = (
                members[members["column"] == half].set_index("seed")["outcome"].to_dict()
                for half in ("base", "new")
            )
            pairs = {seed: (base[seed], new[seed]) for seed in sorted(base.keys() & new)}
            read, missing = each_seed(pairs, joint)
            for half, lack in (("base", new.keys() - base), ("new", base.keys() - new)):
                missing |= {f"no finished run on {half} classes": sorted(lack)} if lack else {}
            problems[line] = [f"{why} [{seeds_text(of)}]" for why, of in missing.items()]
            said = pd.DataFrame.from_dict(read, orient="index")
            found.append(said.melt(var_name="metric", ignore_index=False).assign(line=line))
        self.lines = lines.assign(problems=lines["line"].map(problems))
        of_line = lines[["line", "name", "dataset"]]
        self.numbers = pd.concat(found)[["line", "metric", "value"]].merge(of_line, on="line")

    def averaged(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the lines of data sets whose numbers can be averaged.

        Yields:
            "" and the lines of a group; then the same for each artist, with the artist's name.
        """
        for _, group in self.lines.groupby("group", sort=False):
            every = set(group["dataset"])
            for artist, drawn in ({"": every} | by_artist(every)).items():
                if len(drawn) > 1:
                    yield artist, group[group["dataset"].isin(drawn)]

    def averages(self, group: pd.DataFrame) -> pd.DataFrame:
        """Return means over data sets, `mean` and `count` by name and key of JOINT.

        A data set counts for a method only if it has H there. H is computed from the averages.
        """
        numbers = self.numbers[self.numbers["line"].isin(group["line"])]
        whole = numbers["line"].isin(numbers["line"][numbers["metric"] == "h"])
        of_sets = numbers[whole].groupby(["name", "metric", "dataset"])["value"].mean()
        found = of_sets.groupby(["name", "metric"]).agg(["mean", "count"])
        base, new, h = (found.xs(key, level="metric")["mean"] for key in ("base", "new", "h"))
        for name in h.index:
            found.loc[(name, "h"), "mean"] = harmonic(base[name], new[name])
        return found

    def tables(self) -> dict[Protocol, list[Table]]:
        """Return the tables of each protocol: those of each data set, then averages."""
        found: dict[Protocol, list[Table]] = {}
        for _, of in self.lines.groupby("table", sort=False):
            protocol = protocol_of(of)
            tables = [self._joint(of), *([self._costs(of)] if protocol.costs else [])]
            found.setdefault(protocol, []).extend(tables)
        for artist, group in self.averaged():
            found[protocol_of(group)].append(self._average(group, artist))
        return found

    def _of_table(self, of: pd.DataFrame, what: str, metrics: Mapping[str, Metric]) -> Table:
        """Return a table of some keys of JOINT, for the lines of a data set."""
        first = next(each_row(of))
        title = f"{table_name(first)}: {what}, {shots_text(first.shots)}, {seeds_text(first.seeds)}"
        numbers = self.numbers[self.numbers["line"].isin(of["line"])]
        spread = spread_note(numbers.groupby(["line", "metric"]).size().max())
        return metric_table(title, of, numbers, metrics, [spread, EACH_H])

    def _joint(self, of: pd.DataFrame) -> Table:
        table = self._of_table(of, "base and new classes together", JOINT)
        table.caption.insert(2, JOINT_NOTE)
        said = of[["name", "problems"]].explode("problems").dropna()
        table.problems = [
            f"{', '.join(names)}: {why}"
            for why, names in said.groupby("problems", sort=False)["name"]
        ]
        return table

    def _costs(self, of: pd.DataFrame) -> Table:
        table = self._of_table(of, "accuracy and cost", {"h": JOINT["h"]})
        table.caption.insert(2, "Training is the mean over the seeds.")
        for line, row in zip(table.lines, each_row(of), strict=True):
            costs = more(row)
            for key, name in RELATIVE.items():
                times = getattr(row, key + TIMES)
                costs[f"{name}, x {RELATIVE_TO}"] = "-" if pd.isna(times) else f"{times:.2f}"
            line += map(Cell, costs.values())
        table.head += costs
        return table

    def _average(self, group: pd.DataFrame, artist: str) -> Table:
        """Return the table of averages over data sets; `artist` drew all of them, or is ""."""
        first, of = next(each_row(group)), group["dataset"].nunique()
        kind = f"{artist or 'embedded'} " if first.embedded else ""
        what = f"average over {of} {kind}data sets: base and new classes together"
        title = f"{protocol_of(first).title}, {what}, {shots_text(first.shots)}"
        found, lines = self.averages(group), group.drop_duplicates("name")
        whole = found[found["count"] == of]["mean"].rename("value").reset_index()
        table = metric_table(title, lines, whole, JOINT, [AVERAGE_H, JOINT_NOTE])
        for name, line in zip(lines["name"], table.lines, strict=True):
            for place, key in enumerate(JOINT, 1):
                if 0 < (count := found["count"].get((name, key), 0)) < of:
                    line[place] = Cell(f"{found['mean'][name, key]:.2f} ({count} of {of})")
        table.caption += apart_note(each_row(group))
        return table

    def records(self) -> list[dict]:
        """Return the lines of the tables as plain numbers: those of data sets, then averages."""
        found = []
        means = self.numbers.groupby(["line", "metric"])["value"].mean()
        for row in each_row(self.lines):
            own = {"method": row.name, "seeds": row.seeds, "problems": row.problems}
            numbers = {key: means.get((row.line, key)) for key in JOINT}
            costs = ["num_params", *RELATIVE, *(key + TIMES for key in RELATIVE)]
            found.append(_place(row) | own | numbers | {k: known(getattr(row, k)) for k in costs})
        for artist, group in self.averaged():
            place = _place(next(each_row(group)))
            place |= {"dataset": "average", "artist": artist or None}
            averages, of = self.averages(group), group["dataset"].nunique()
            for name in group["name"].unique():
                over = {"datasets": int(averages["count"].get((name, "h"), 0)), "of": of}
                numbers = {key: averages["mean"].get((name, key)) for key in JOINT}
                found.append(place | {"method": name, "problems": []} | over | numbers)
        return found


def _place(row: Any) -> dict:
    names = ("protocol", "source", "dataset", "shots")
    return {name: getattr(row, name) for name in names} | {"column": "base and new"}


def metric_table(
    title: str,
    lines: pd.DataFrame,
    numbers: pd.DataFrame,
    metrics: Mapping[str, Metric],
    caption: Sequence[str],
    problems: Sequence[str] = (),
) -> Table:
    """Return a table with a line for each method and a column for each metric.

    Args:
        title: above the table.
        lines: a row of each line, in their order.
        numbers: a row for each number: `name` of the line, `metric` and `value`.
        metrics: the columns, by name in `numbers`.
        caption: sentences below; one on marks is added.
        problems: sentences on what is missing.
    """
    values = numbers.groupby(["name", "metric"])["value"].agg(list)
    cells = [
        [
            Cell(marked(row.name, row.beyond)),
            *(
                metric_cell(values.get((row.name, key), []), metric)
                for key, metric in metrics.items()
            ),
        ]
        for row in each_row(lines)
    ]
    head = [first_head(protocol_of(lines)), *(metric.head for metric in metrics.values())]
    marks = meaning(lines["beyond"].explode().dropna())
    return Table(title, head, cells, [*caption, *marks], list(problems))


def metric_cell(values: list[float], metric: Metric) -> Cell:
    """Return a cell with `mean ± standard deviation`, whose `value` is larger if better."""
    if not values:
        return Cell("-")
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    better = mean(values) if metric.more_is_better else -mean(values)
    return Cell(f"{mean(values):.2f}{spread}", better)
