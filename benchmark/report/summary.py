"""Means over seeds and over data sets, from which every table, plot and file is cut.

A row of a summary is a line of a table, a column of its protocol and a metric. Averages over data
sets are further lines.
"""

from collections import defaultdict
from typing import Any

import pandas as pd

from trainers.prompting.checkpoint.keys import KEYS

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol, shots_text
from ..records import COSTS, METRICS, OOD, Metric
from . import published
from .frame import MEAN, each_row, main_rows
from .names import dataset_title
from .paired import harmonic
from .per_image import half_intervals
from .training import COUNTS, INIT, SHOWN, TRAINED

PLACE = ["line", "column", "metric"]  # what a mean over seeds is of
HALVES = ("base", "new")
USUAL = {
    place.partition(".")[2]: KEYS[place].default
    for place in (*(f"DATASET.{key}" for key in COUNTS), *SHOWN)
}
AVERAGED = MEAN[1:]  # within a group
BOTH = "base and new"  # the column of metrics over both halves together


def summarise(
    tidy: pd.DataFrame,
    interval: bool = False,
    beside_published: bool = True,
    scores: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the means of the lines of tables, in their order; averages come last.

    Each line has a row of its main metric for every column of its protocol, H among them, and rows
    of its other metrics; `scores` are further ones, those of `further`. The spread is the
    standard deviation or, with `interval`, half of the 95% interval: over the seeds, or of mAP as
    of `half_intervals`.
    """
    numbers = _means(tidy, scores)
    tidy = main_rows(tidy)
    lines = _lines(tidy, beside_published)
    cells = lines.explode("column").reset_index()
    others = numbers.index.to_frame(index=False)
    others = lines.drop(columns=["column", "metric"]).reset_index().merge(others, on="line")
    others = others[others["metric"] != others["main"]]
    cells = pd.concat([cells, others], ignore_index=True)
    images = tidy.groupby(["line", "column"])["num_test"].max().rename("images")
    cells = cells.join(images, on=["line", "column"]).join(numbers, on=PLACE)
    cells["problems"] = cells["problems"].map(lambda each: each if isinstance(each, list) else [])
    cells["count"] = cells["count"].fillna(0).astype(int)
    enough = cells["untrained"] | (cells["count"] == cells["of"])
    cells["complete"] = (cells["count"] > 0) & enough
    cells["interval"], cells["average"] = interval, False
    cells["spread"] = _half_interval(cells) if interval else cells["std"]
    for (line, column), (half, problems) in half_intervals(tidy).items() if interval else ():
        here = cells["metric"].eq("map") & cells["line"].eq(line) & cells["column"].eq(column)
        cells.loc[here, "spread"] = half
        cells.loc[here, "problems"] = cells.loc[here, "problems"].map(
            lambda had, new=problems: had + new
        )
    averages = [_average(cells, *of_group) for of_group in sets_to_average(cells).items()]
    if averages:  # in the order of the lines
        averages = [
            pd.concat(averages).sort_index(kind="stable").sort_values("rank", kind="stable")
        ]
    numbers = pd.concat([cells, *averages], ignore_index=True)
    of_papers = numbers["dataset"].map(published.METRIC).fillna(numbers["main"])
    numbers["comparable"] &= numbers["metric"] == of_papers
    return numbers.copy()  # in fewer blocks, as frame's


def of_metrics(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary of all metrics that tables show, in the order of METRICS."""
    found = numbers["metric"].unique()
    names = [key for key in METRICS if key in found]
    order = {name: i for i, name in enumerate([*names, *filter(is_ood, found)])}
    empty = numbers["average"] & numbers["mean"].isna() & (numbers["metric"] != numbers["main"])
    shown = numbers[numbers["metric"].isin(order) & ~empty]
    return shown.sort_values("metric", key=lambda keys: keys.map(order), kind="stable")


def usual_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main metrics, and of another that published numbers are of."""
    beside = numbers.groupby(["metric", "table"])["comparable"].transform("any")
    return numbers[(numbers["metric"] == numbers["main"]) | beside.astype(bool)]


def protocol_of(rows: Any) -> Protocol:
    """Return the protocol of a row, or of rows that have the same."""
    name = rows.protocol
    return PROTOCOLS[name if isinstance(name, str) else name.iloc[0]]


def number_or_none(number: Any) -> Any:
    """Return a number of a data frame; None if it is missing there."""
    return None if number is None or number != number else number


def is_ood(name: str) -> bool:
    """Return True for the name of a metric of out-of-distribution detection."""
    return name.startswith("ood_")


def metric_of(name: str) -> Metric:
    """Return a metric by its name in the frame."""
    if not is_ood(name):
        return METRICS[name]
    key = next(key for key in OOD if name.endswith(f"_{key}"))
    dataset = dataset_title(name.removeprefix("ood_").removesuffix(f"_{key}"))
    return OOD[key]._replace(head=f"{OOD[key].head} against {dataset} (%)")


def _means(tidy: pd.DataFrame, scores: pd.DataFrame | None) -> pd.DataFrame:
    """Return mean, std, count and problems by PLACE.

    H is that of the means; its deviation and count are over the seeds that have both halves.
    """
    failed = tidy[tidy["problem"].notna()]
    texts = failed["problem"] + " [seed " + failed["seed"].astype(str) + "]"
    values = tidy[[*PLACE, "seed", "value"]].assign(problem=texts)
    values = pd.concat([values, scores], ignore_index=True)
    by_seed = values.set_index([*PLACE, "seed"])["value"]
    by_seed = pd.concat([by_seed, _h(by_seed)])
    numbers = by_seed.groupby(PLACE, sort=False).agg(["mean", "std", "count"])
    means = numbers["mean"].drop("h", level="column", errors="ignore")
    numbers["mean"] = pd.concat([means, _h(means)])
    problems = values[values["problem"].notna()].groupby(PLACE)["problem"].agg(list)
    return numbers.join(problems.rename("problems"), how="outer")


def _lines(tidy: pd.DataFrame, beside_published: bool) -> pd.DataFrame:
    """Return what holds for each line, from its runs; `column` lists those of its protocol."""
    by_line = tidy.groupby("line", sort=False)
    lines = tidy.drop_duplicates("line").set_index("line").drop(columns=["problem", *COSTS])
    lines["split"] = by_line["split"].agg(
        lambda splits: " and ".join(sorted(set(splits.fillna("test"))))
    )
    for name, key in (("backbones", "backbone"), ("precisions", "precision")):
        lines[name] = by_line[key].agg(lambda names: set(names.dropna()))
    lines["least"] = by_line["least"].min()
    lines["other_data"] = by_line["other_data"].any()
    losses = tidy["outcome"].map(lambda outcome: str((outcome.result or {}).get("losses") or ""))
    twice = tidy.assign(losses=losses).duplicated(["line", "column", "losses"], keep=False)
    lines["repeated"] = tidy[twice & (losses != "")].groupby("line")["seed"].agg(set)
    line_seeds = by_line["seed"].agg(lambda seeds: sorted(set(seeds)))
    lines["seeds"] = lines["seeds"].where(lines["seeds"].notna(), line_seeds)
    lines["of"] = lines["seeds"].str.len()
    lines["group_published"] = [published.group_of([name]) for name in lines["dataset"]]
    lines["comparable"] = [beside_published and _comparable(line) for line in each_row(lines)]
    trainings = tidy[tidy["training"] & tidy["problem"].isna()]
    costs = trainings.groupby("line").agg({key: cost.over_seeds for key, cost in COSTS.items()})
    lines = lines.join(costs.astype(object))  # numbers of parameters stay whole
    of_trained = [key for key, cost in COSTS.items() if cost.if_trained]
    lines.loc[lines["untrained"], of_trained] = None
    lines["column"] = [list(PROTOCOLS[name].columns) for name in lines["protocol"]]
    return lines


def _h(numbers: pd.Series) -> pd.Series:
    """Return H, with the column h, of numbers with the columns base and new in their index."""
    of_halves = numbers.index.isin(HALVES, level="column")
    with_h = [*(key for key, metric in METRICS.items() if metric.has_h), "chance"]
    halves = numbers[of_halves & numbers.index.isin(with_h, level="metric")]
    halves = halves.dropna().unstack("column")  # several problems of a line have no seed
    if not {*HALVES} <= set(halves):
        return numbers[:0]
    h = pd.Series(harmonic(halves["base"], halves["new"]))
    return pd.concat({"h": h}, names=["column"]).reorder_levels(numbers.index.names)


def count_text(row: Any) -> str:
    """Return what follows the mean of a row that lacks seeds or data sets; empty if it does not."""
    return "" if row.complete else f" ({row.count} of {row.of})"


def published_beside(row: Any, trainer: str = "") -> published.Published | None:
    """Return the published numbers of a method (or the row's own) with the number of a row's place.

    None if there are none, or the setting is another.
    """
    protocol = PROTOCOLS[row.protocol]
    theirs = row.comparable and published.find(
        protocol, trainer or own_name(row), row.dataset, row.shots, row.group_published
    )
    fits = theirs and row.column in theirs.values and row.backbones == {theirs.backbone}
    return theirs if fits else None


def own_name(row: Any) -> str:
    """Return the name by which the method of a row has published numbers."""
    return published.with_known(row.trainer, dict(row.settings).get(published.KNOWN, 1))


def minus_published(row: Any) -> float | None:
    """Return a mean minus the published number; None if one is missing or cannot be right."""
    theirs = published_beside(row)
    lacking = row.mean != row.mean or (row.average and not row.complete)
    if theirs is None or theirs.misprint or lacking:
        return None
    return row.mean - theirs.values[row.column]


def _comparable(line) -> bool:
    """Return True if a line has the setting of published numbers."""
    settings = dict(line.settings)
    fits = not line.label and line.split == "test" and not line.other_data
    fits = fits and all(USUAL.get(key, value) == value for key, value in settings.items())
    from_file = line.trainer in published.OF_FILES
    fits = fits and TRAINED not in settings and (INIT in settings) == from_file
    group, protocol = line.group_published, PROTOCOLS[line.protocol]
    return fits and any(line.backbones == {x} for x in published.backbones(protocol, group))


def _half_interval(cells: pd.DataFrame) -> pd.Series:
    """Return half of the 95% interval of each mean (Student's t); none for fewer than two seeds."""
    from scipy.special import stdtrit

    count = cells["count"].where(cells["count"] > 1)
    return stdtrit(count - 1, 0.975) * cells["std"] / count**0.5


def sets_to_average(cells: pd.DataFrame) -> dict[int, set[str]]:
    """Return the data sets of averages by group; outputs that share no data set have none."""
    of_target = ~cells["average"] & (cells["dataset"] != cells["source"])
    targets = cells[["group", "name", "dataset", "origin"]][of_target]
    targets = targets[targets.groupby("group")["dataset"].transform("nunique") > 1]
    of_line = targets.groupby(["group", "name"])["dataset"].transform("nunique")
    apart = targets["origin"].astype(bool) & (of_line == 1)
    targets = targets[~apart.groupby(targets["group"]).transform("all").astype(bool)]
    return targets.groupby("group", sort=False)["dataset"].agg(set).to_dict()


def _average(cells: pd.DataFrame, group: int, datasets: set[str]) -> pd.DataFrame:
    """Return the averages of a group over its data sets; H is that of the averages.

    Each is over those data sets on which a method has all columns.
    """
    targets = cells[(cells["group"] == group) & cells["dataset"].isin(datasets)]
    targets = targets[targets["dataset"] != targets["source"]]
    protocol = PROTOCOLS[targets["protocol"].iloc[0]]
    main = main_rows(targets)
    has_all = main.groupby("line")["mean"].count() == len(protocol.columns)
    counted = targets["mean"].where(targets["line"].map(has_all))
    by_place = counted.groupby([targets[key] for key in (*AVERAGED, "metric", "column")])
    means = by_place.mean().drop("h", level="column", errors="ignore")
    numbers = pd.concat([means, _h(means)]).to_dict()
    problems = defaultdict(list)
    last = main["column"] == list(protocol.columns)[-1]  # of base, new and h: h
    averaged = counted[main.index].notna()
    for row in each_row(main[last & averaged & ~main["complete"]]):
        place = f"{row.name}, {row.dataset}, {shots_text(row.shots)}"
        text = f"{place}: a mean over {row.count} of {row.of} seeds"
        problems[row.name, row.shots, row.metric, row.column].append(text)
    edited = targets.groupby(AVERAGED)["edited"].agg(lambda lists: sorted({*sum(lists, [])}))
    comparable = targets.groupby(AVERAGED)["comparable"].all()
    whose = published.group_of(datasets)
    if comparable.any():  # else no file is read
        of_papers = published.datasets(protocol, whose) - {targets["source"].iloc[0]}
        comparable &= datasets == of_papers
    averages = targets.assign(
        dataset=published.AVERAGE, table=group, average=True,
        line=-1 - targets["line"], std=float("nan"), spread=float("nan"),
        count=by_place.transform("count"), of=len(datasets), group_published=whose,
    )  # fmt: skip
    places = [*AVERAGED, "metric", "column"]
    averages = averages.sort_values("rank", kind="stable").drop_duplicates(places)
    keys = [*zip(*(averages[key] for key in places), strict=True)]
    return averages.assign(
        mean=[numbers.get(key, float("nan")) for key in keys],
        complete=averages["count"] == averages["of"],
        problems=[problems[key] for key in keys],
        edited=[edited[key[:2]] for key in keys],
        comparable=[comparable[key[:2]] for key in keys],
    )
