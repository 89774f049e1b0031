"""Turn a tidy data frame of runs into the numbers of tables.

A row is a line of a table and a column of its protocol; averages over data sets are further lines.
"""

from collections import defaultdict
from itertools import chain
from typing import Any

import pandas as pd

from trainers.prompting.dataset_keys import CHANGES, SENTENCES, STREAM

from ..protocols import PROTOCOLS
from ..protocols.base import shots_text
from ..records import COSTS
from . import published
from .frame import MEAN, each_row
from .paired import harmonic
from .training import INIT, TRAINED

KEYS = CHANGES | SENTENCES | STREAM


def rows(tidy: pd.DataFrame, interval: bool = False, beside_published: bool = True) -> pd.DataFrame:
    """Return the numbers of tables, in their order; averages over data sets come last.

    The spread is the standard deviation or, with `interval`, half of the 95% interval.

    Raises:
        UserError: a file of published numbers has a wrong line.
    """
    if tidy.empty:
        return tidy
    tidy = tidy[tidy["metric"] == "accuracy"]
    by_line = tidy.groupby("line", sort=False)
    lines = tidy.drop_duplicates("line").set_index("line").drop(columns=["problem", *COSTS])
    lines["split"] = by_line["split"].agg(
        lambda splits: " and ".join(sorted(set(splits.fillna("test"))))
    )
    lines["backbones"] = by_line["backbone"].agg(lambda names: set(names.dropna()))
    lines["precisions"] = by_line["precision"].agg(lambda names: set(names.dropna()))
    lines["least"] = by_line["least"].min()
    lines["other_data"] = by_line["other_data"].any()
    lines["alike"] = by_line["alike"].agg(lambda groups: [*dict.fromkeys(chain(*groups))])
    losses = tidy["outcome"].map(lambda outcome: str((outcome.result or {}).get("losses") or ""))
    twice = tidy.assign(losses=losses).duplicated(["line", "column", "losses"], keep=False)
    lines["repeated"] = tidy[twice & (losses != "")].groupby("line")["seed"].agg(set)
    line_seeds = by_line["seed"].agg(lambda seeds: sorted(set(seeds)))
    lines["seeds"] = lines["seeds"].where(lines["seeds"].notna(), line_seeds)
    lines["of"] = lines["seeds"].str.len()
    lines["group_published"] = [published.group_of([name]) for name in lines["dataset"]]
    lines["comparable"] = [beside_published and _comparable(line) for line in each_row(lines)]
    trainings = tidy[tidy["training"] & tidy["problem"].isna()]
    lines = lines.join(
        trainings.groupby("line").agg({key: cost.over_seeds for key, cost in COSTS.items()})
    )
    of_trained = [key for key, cost in COSTS.items() if cost.if_trained]
    lines.loc[lines["untrained"], of_trained] = None
    lines["column"] = [list(PROTOCOLS[name].columns) for name in lines["protocol"]]
    texts = tidy["problem"] + " [seed " + tidy["seed"].astype(str) + "]"
    problems = tidy.assign(problems=texts).groupby(["line", "column"])["problems"]
    numbers = of_seeds(tidy).groupby(["line", "column"]).agg(["mean", "std", "count"])
    means = with_h(numbers.pop("mean").unstack("column")).stack().rename("mean")
    cells = lines.explode("column").reset_index()
    images = tidy.groupby(["line", "column"])["num_test"].max().rename("images")
    for values in (numbers, means, images, problems.agg(lambda texts: list(texts.dropna()))):
        cells = cells.join(values, on=["line", "column"])
    cells["problems"] = cells["problems"].map(lambda each: each if isinstance(each, list) else [])
    cells["count"] = cells["count"].fillna(0).astype(int)
    enough = cells["untrained"] | (cells["count"] == cells["of"])
    cells["complete"] = (cells["count"] > 0) & enough
    cells["interval"], cells["average"] = interval, False
    cells["spread"] = _half_interval(cells) if interval else cells["std"]
    return pd.concat([cells, _averages(cells)], ignore_index=True)


def of_seeds(accuracies: pd.DataFrame) -> pd.Series:
    """Return the accuracy of each line, seed and column, and H; NaN where there is none."""
    columns = accuracies.pivot(index=["line", "seed"], columns="column", values="value")
    return with_h(columns).stack(future_stack=True)


def with_h(numbers: pd.DataFrame) -> pd.DataFrame:
    """Add H as the column h to numbers that have the columns base and new."""
    if not {"base", "new"} <= set(numbers):
        return numbers
    return numbers.assign(h=harmonic(numbers["base"], numbers["new"]))


def count_text(row: Any) -> str:
    """Return what follows the mean of a row that lacks seeds or data sets; empty if it does not."""
    return "" if row.complete else f" ({row.count} of {row.of})"


def published_beside(row: Any, trainer: str = "") -> published.Published | None:
    """Return the published numbers of a method (or the row's own) with the number of a row's place.

    None if there are none, or the setting is another.
    """
    protocol = PROTOCOLS[row.protocol]
    theirs = row.comparable and published.find(
        protocol, trainer or row.trainer, row.dataset, row.shots, row.group_published
    )
    return theirs if theirs and row.column in theirs.values else None


def minus_published(row: Any) -> float | None:
    """Return a mean minus the published number; None if one is missing or cannot be right."""
    theirs = published_beside(row)
    lacking = row.mean != row.mean or (row.average and not row.complete)
    if theirs is None or theirs.misprint or lacking:
        return None
    return row.mean - theirs.values[row.column]


def _comparable(line) -> bool:
    """Return True if a line has the setting of published numbers."""
    group = line.group_published
    fits = not line.label and line.backbones == {published.BACKBONES[group]}
    fits = fits and line.split == "test" and not line.other_data
    fits = fits and all(
        key not in (INIT, TRAINED) and KEYS.get(key, value) == value for key, value in line.settings
    )
    return fits and bool(published.numbers(PROTOCOLS[line.protocol], group))


def _half_interval(cells: pd.DataFrame) -> pd.Series:
    """Return half of the 95% interval of each mean (Student's t); none for fewer than two seeds."""
    from scipy.special import stdtrit

    count = cells["count"].where(cells["count"] > 1)
    return stdtrit(count - 1, 0.975) * cells["std"] / count**0.5


def averaged_over(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that averages are over; outputs that share no data set have none."""
    targets = cells[cells["dataset"] != cells["source"]]
    targets = targets[targets.groupby("group")["dataset"].transform("nunique") > 1]
    of_line = targets.groupby(["group", "name"])["dataset"].transform("nunique")
    apart = targets["origin"].astype(bool) & (of_line == 1)
    return targets[~apart.groupby(targets["group"]).transform("all").astype(bool)]


def _averages(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the averages over data sets, where there are several; H is that of the averages.

    Each is over those data sets on which a method has all columns.
    """
    targets = averaged_over(cells)
    sets = targets.groupby("group")["dataset"].agg(set)
    if targets.empty:
        return targets
    columns = targets["protocol"].map(lambda name: list(PROTOCOLS[name].columns))
    has_all = targets.groupby("line")["mean"].transform("count") == columns.str.len()
    # of base, new and h: h, which needs both
    last = has_all & (targets["column"] == columns.str[-1])
    means = targets[has_all].groupby([*MEAN, "column"])["mean"].mean().unstack("column")
    numbers = with_h(means).stack().to_dict()
    problems = defaultdict(list)
    for row in each_row(targets[last & ~targets["complete"]]):
        place = f"{row.name}, {row.dataset}, {shots_text(row.shots)}"
        text = f"{place}: a mean over {row.count} of {row.of} seeds"
        problems[row.group, row.name, row.shots, row.column].append(text)
    mean = [targets[key] for key in MEAN]
    averages = targets.assign(
        dataset=published.AVERAGE, table=targets["group"], average=True, line=-1 - targets["line"],
        std=float("nan"), spread=float("nan"), count=last.groupby(mean).transform("sum"),
        of=targets["group"].map(sets.str.len()),
        comparable=targets["comparable"].groupby(mean).transform("all"),
    )  # fmt: skip
    averages = averages.sort_values("rank", kind="stable").drop_duplicates([*MEAN, "column"])
    keys = [*zip(*(averages[key] for key in (*MEAN, "column")), strict=True)]
    averages["group_published"] = [published.group_of(sets[g]) for g in averages["group"]]
    edited = targets.groupby(MEAN)["edited"].agg(lambda lists: sorted({*sum(lists, [])}))
    return averages.assign(
        mean=[numbers.get(key, float("nan")) for key in keys],
        complete=averages["count"] == averages["of"],
        problems=[problems[key] for key in keys],
        edited=[edited[key[:-1]] for key in keys],
        comparable=[
            row.comparable
            and sets[row.group]
            == published.datasets(PROTOCOLS[row.protocol], row.group_published) - {row.source}
            for row in each_row(averages)
        ],
    )
