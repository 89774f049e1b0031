"""Turn a tidy data frame of runs into the numbers of tables.

A row is a line of a table and a column of its protocol; averages over data sets are further lines.
"""

from typing import Any

import pandas as pd

from ..protocols import PROTOCOLS
from ..protocols.base import shots_text
from . import published
from .frame import CHANGES, each_row
from .paired import harmonic

COSTS = {"num_params": "last", "train_seconds": "mean", "step_seconds": "mean",
         "peak_memory_mib": "max"}  # fmt: skip
PUBLISHED = {"published": None, "published_source": None, "misprint": False, "difference": None}


def rows(tidy: pd.DataFrame, interval: bool = False, beside_published: bool = True) -> pd.DataFrame:
    """Return the numbers of tables, in their order; averages over data sets come last.

    Args:
        tidy: a data frame as `frame` makes it.
        interval: make the spread half of the 95% interval, not the standard deviation.
        beside_published: add published numbers where they are comparable.

    Raises:
        UserError: a file of published numbers has a wrong line.
    """
    if tidy.empty:
        return tidy
    tidy = tidy[tidy["metric"] == "accuracy"]
    of_line = tidy.groupby("line", sort=False)
    columns = {name: list(protocol.columns) for name, protocol in PROTOCOLS.items()}
    lines = tidy.drop_duplicates("line").set_index("line").drop(columns=["column", *COSTS])
    lines["split"] = of_line["split"].agg(lambda of: " and ".join(sorted(set(of.fillna("test")))))
    lines["backbones"] = of_line["backbone"].agg(lambda of: set(of.dropna()))
    own = of_line["seed"].agg(lambda of: sorted(set(of)))
    lines["seeds"] = lines["seeds"].where(lines["seeds"].notna(), own)
    lines["comparable"] = [beside_published and _comparable(line) for line in each_row(lines)]
    costs = tidy[tidy["training"] & tidy["problem"].isna()].groupby("line").agg(COSTS)
    lines = lines.join(costs)
    lines.loc[lines["untrained"], "peak_memory_mib"] = None
    places = [(line, column) for line, of in lines["protocol"].items() for column in columns[of]]
    cells = tidy.groupby(["line", "column"])
    index = pd.MultiIndex.from_tuples(places, names=["line", "column"])
    numbers = cells["value"].agg(["mean", "std", "count"]).reindex(index)
    failed = tidy[tidy["problem"].notna()]
    failed = failed.assign(problem=failed["problem"] + [f" [seed {n}]" for n in failed["seed"]])
    numbers["problems"] = failed.groupby(["line", "column"])["problem"].agg(list).reindex(index)
    found = numbers.reset_index().join(lines.drop(columns="problem"), on="line")
    found["count"] = found["count"].fillna(0).astype(int)
    found["of"] = found["seeds"].str.len()
    found["complete"] = (found["count"] > 0) & (
        found["untrained"] | (found["count"] == found["of"])
    )
    found["problems"] = [of if isinstance(of, list) else [] for of in found["problems"]]
    found["interval"], found["average"] = interval, False
    found["spread"] = _half_interval(found) if interval else found["std"]
    found = pd.concat([found, _averages(found)], ignore_index=True)
    found["cell"] = [_cell(row) for row in each_row(found)]
    theirs = [_published(row) for row in each_row(found)]
    return found.join(pd.DataFrame(theirs, found.index, list(PUBLISHED)))


def lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of each line, by column."""
    of_lines = [each_row(members) for _, members in rows.groupby("line", sort=False)]
    return [{row.column: row for row in members} for members in of_lines]


def _comparable(line) -> bool:
    """Return True if a line has the setting of published numbers."""
    fits = not line.label and line.backbones == {published.BACKBONE} and line.split == "test"
    fits = fits and all(CHANGES.get(key, value) == value for key, value in line.settings)
    return fits and bool(published.numbers(PROTOCOLS[line.protocol]))


def _half_interval(found: pd.DataFrame) -> pd.Series:
    """Return half of the 95% interval of each mean (Student's t); none for fewer than two seeds."""
    from scipy.special import stdtrit

    count = found["count"].where(found["count"] > 1)
    return stdtrit(count - 1, 0.975) * found["std"] / count**0.5


def _averages(found: pd.DataFrame) -> pd.DataFrame:
    """Return the averages over data sets, where there are several; H is that of the averages."""
    targets = found[found["dataset"] != found["source"]]
    datasets = targets.groupby("group")["dataset"].agg(set)
    targets = targets[targets["group"].map(datasets.str.len()) > 1].sort_values(
        "rank", kind="stable"
    )
    same = ["group", "name", "shots"]
    averages = [
        row
        for (group, *_), members in targets.groupby(same, sort=False)
        for row in _average(members, datasets[group])
    ]
    return pd.DataFrame(averages, columns=found.columns if averages else None)


def _average(members: pd.DataFrame, datasets: set[str]) -> list[dict]:
    """Return the rows of a method's average over those data sets on which it has all columns."""
    first = members.iloc[0]
    columns = list(PROTOCOLS[first["protocol"]].columns)
    comparable = all(members["comparable"])
    members = members[members.groupby("line")["mean"].transform("count") == len(columns)]
    means = members.groupby("column")["mean"].mean().to_dict()
    if "h" in means:
        means["h"] = float(harmonic(means["base"], means["new"]))
    last = members[members["column"] == columns[-1]]  # of base, new and h: h, which needs both
    problems = [
        f"{row.name}, {row.dataset}, {shots_text(row.shots)}: a mean over "
        f"{row.count} of {row.of} seeds"
        for row in each_row(last[~last["complete"].astype(bool)])
    ]
    papers = published.datasets(PROTOCOLS[first["protocol"]]) - {first["source"]}
    shared = dict(first) | {
        "dataset": published.AVERAGE, "table": first["group"], "average": True,
        "line": -1 - first["line"], "std": None, "spread": None, "count": len(last),
        "of": len(datasets), "complete": len(last) == len(datasets),
        "comparable": datasets == papers and comparable,
    }  # fmt: skip
    return [
        shared | {"column": name, "mean": means.get(name),
                  "problems": problems if name == columns[-1] else []}
        for name in columns
    ]  # fmt: skip


def _cell(row) -> str:
    """Return `mean ± spread`, with the count if seeds or data sets are missing; or the problem."""
    if pd.isna(row.mean):
        return row.problems[0].partition(":")[0] if row.problems else "-"
    spread = "" if pd.isna(row.spread) else f" ± {row.spread:.2f}"
    missing = "" if row.complete else f" ({row.count} of {row.of})"
    return f"{row.mean:.2f}{spread}{missing}"


def _published(row) -> dict:
    """Return the published number of the same setting, and the difference of ours from it."""
    if not row.comparable:
        return PUBLISHED
    theirs = published.find(PROTOCOLS[row.protocol], row.trainer, row.dataset, row.shots)
    if theirs is None or row.column not in theirs.values:
        return PUBLISHED
    number = theirs.values[row.column]
    lacking = theirs.misprint or pd.isna(row.mean) or (row.average and not row.complete)
    return {
        "published": number,
        "published_source": theirs.source,
        "misprint": theirs.misprint,
        "difference": None if lacking else row.mean - number,
    }
