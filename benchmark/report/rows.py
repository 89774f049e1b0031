"""Turn outcomes of runs into a data frame, from which every table, plot and file is made.

A row of the frame is one number: the accuracy, over the seeds, of a method on a data set in one
column of the protocol (in few-shot with a number of shots, in an ablation with a variant). If
`average` is set, it is the mean of such numbers over the data sets of a `group`. Rows that belong
to one line of a table share a `line`; rows of one table share a `table`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

import pandas as pd

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol, learns_nothing, shots_text
from ..records import Outcome, marks
from . import published
from .methods import rank
from .names import DATASETS, embedded
from .paired import harmonic

# Runs that agree in these share a line. Only runs read from logs have a `label`.
LINE = ["protocol", "source", "dataset", "shots", "trainer", "label", "config", "variant", "origin"]

# The columns of the frame.
FIELDS = [
    *LINE, "untrained", "settings", "embedded", "group", "table", "rank", "method", "name",
    "line_name",  # in its table: the method, or the setting if only one method is ablated
    "average",  # True for an average over data sets
    "line",  # number of the line
    "comparable",  # has the setting of published numbers
    "seeds",  # of any method in the same table
    "beyond",  # marks for what the method needs beyond labelled images
    "splits", "num_params", "train_seconds", "step_seconds", "peak_memory_mib",
    "column", "mean", "std",
    "interval",  # True if the spread is half of the 95% interval
    "spread",  # the number after `±`
    "count", "of",  # number of seeds (or data sets) in the mean, and how many there should be
    "complete",  # True if no seed or data set is missing
    "problems",
    "runs",  # the outcomes by column (`h` has two) and seed
    "cell",  # the text in a table
    "published", "published_source", "misprint", "difference",
]  # fmt: skip


def rows(
    outcomes: Iterable[Outcome], interval: bool = False, beside_published: bool = True
) -> pd.DataFrame:
    """Return the frame of all outcomes, in the order of the tables; averages come last.

    Args:
        outcomes: outcomes of runs of any protocols.
        interval: make the spread half of the 95% interval, not the standard deviation.
        beside_published: add published numbers where they are comparable.

    Raises:
        UserError: a file of published numbers has a wrong line.
    """
    runs = _runs(list(outcomes))
    found: list[dict] = []
    for _, members in runs.groupby(LINE, sort=False):
        found += _numbers(members, interval, beside_published)
    found += _averages(pd.DataFrame(found, columns=FIELDS, dtype=object))
    found = [row | {"cell": _cell(row)} | _published(row) for row in found]
    frame = pd.DataFrame(found, columns=FIELDS, dtype=object)
    frame["average"] = frame["average"].astype(bool)
    several = frame.groupby("table")["method"].transform("nunique") > 1
    frame["line_name"] = [
        row.name.removeprefix(f"{row.method}, ")
        if row.protocol.by_variant and not of_several
        else row.name
        for row, of_several in zip(frame.itertuples(), several, strict=True)
    ]
    return frame


def lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of each line, by column."""
    of_lines = [members.itertuples() for _, members in rows.groupby("line", sort=False)]
    return [{row.column: row for row in members} for members in of_lines]


def _runs(outcomes: list[Outcome]) -> pd.DataFrame:
    """Return a row for each run and each table that it is in, with the values its line shares."""
    untrained = _untrained(outcomes)
    found = []
    for outcome in outcomes:
        run, protocol = outcome.run, outcome.run.protocol
        free = run.trainer in untrained and protocol.untrained_once
        found.append({name: getattr(run, name, "") for name in LINE} | {
            "origin": outcome.origin,
            "shots": 0 if free else run.shots,
            "untrained": run.trainer in untrained or run.shots == 0,
            "settings": settings(run.variant),
            "embedded": embedded(run.dataset),
            "seed": run.seed,
            "column": protocol.parts[run.part].column,
            "outcome": outcome,
        })  # fmt: skip
    if not found:
        return pd.DataFrame(columns=LINE)
    runs = _in_every_table(pd.DataFrame(found))
    numbers: dict[tuple, int] = {}
    groups = [_group(run) for run in runs.itertuples()]
    runs["group"] = [numbers.setdefault(group, len(numbers)) for group in groups]
    runs["table"] = [
        run.group
        if run.protocol.across == "dataset"
        else numbers.setdefault((*group, run.dataset), len(numbers))
        for group, run in zip(groups, runs.itertuples(), strict=True)
    ]
    same_name = ["table", "shots", "trainer", "label", "origin"]
    several = runs.groupby(same_name, sort=False)["config"].transform("nunique") > 1
    ours = set(runs["trainer"][runs["label"] == ""])
    runs["method"] = [
        _method(run, ours, of_several)
        for run, of_several in zip(runs.itertuples(), several, strict=True)
    ]
    runs["name"] = [
        ", ".join([run.method, *setting_texts(run.settings)]) for run in runs.itertuples()
    ]
    trained = runs[~runs["untrained"]].groupby("table")["seed"].agg(set).to_dict()
    runs["seeds"] = [trained.get(table) for table in runs["table"]]
    order = pd.Series([_order(run) for run in runs.itertuples()], index=runs.index, dtype=object)
    runs["rank"] = [key[-1] for key in order]
    return runs.loc[sorted(runs.index, key=order.__getitem__)]


def _untrained(outcomes: list[Outcome]) -> set[str]:
    """Return the methods that learn nothing, judged by their records, or else by their names.

    Those that adapt to the test images do not count: their accuracy depends on the seed.
    """
    found = {}
    for outcome in outcomes:
        trainer, result = outcome.run.trainer, outcome.result or {}
        if result.get("num_params") is not None:
            found[trainer] = result["num_params"] == 0 and not result.get("adapts")
        else:
            found.setdefault(trainer, learns_nothing(trainer))
    return {trainer for trainer, untrained in found.items() if untrained}


def _in_every_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Repeat untrained methods of transfer protocols in the table of each number of shots."""
    trained = runs[runs["shots"] > 0].groupby(["protocol", "source"], sort=False)["shots"]
    numbers = trained.agg(set).to_dict()
    runs["shots"] = [
        list(numbers.get((run.protocol, run.source), {0}))
        if run.protocol.across == "dataset" and run.shots == 0
        else [run.shots]
        for run in runs.itertuples()
    ]
    return runs.explode("shots", ignore_index=True)


def _group(run) -> tuple:
    """Return the key of rows whose data sets may be averaged."""
    if run.protocol.across == "dataset":  # the average is over the columns of a table
        return run.protocol, run.source, run.shots
    shots = None if run.protocol.across == "shots" else run.shots
    return run.protocol, run.embedded, shots, " and ".join(run.settings)


def _method(run, ours: set[str], several_configs: bool) -> str:
    """Return the name in the tables, with the config and origin where there are several."""
    name = f"{run.label} (logs)" if run.label in ours else run.label or run.trainer
    marks = [run.config] * several_configs + [run.origin] * bool(run.origin)
    return f"{name} ({', '.join(marks)})" if marks else name


def _order(run) -> tuple:
    """Return the sort key of a run's row; the last entry is the sort key of its method."""
    names = list(DATASETS)
    place = names.index(run.dataset) if run.dataset in names else len(names)
    protocol = list(PROTOCOLS.values()).index(run.protocol)
    dataset = (run.embedded, run.dataset != run.source, place, run.dataset)
    method = rank(run.trainer), run.label, run.config, tuple(run.settings.items()), run.origin
    return protocol, run.source, *dataset, run.shots, method


def _numbers(members: pd.DataFrame, interval: bool, beside_published: bool) -> list[dict]:
    """Return the rows of a line from its runs, one for each column of the protocol."""
    first: Any = next(members.itertuples())
    shared = {name: getattr(first, name) for name in FIELDS if name in members}
    protocol = first.protocol
    outcomes: dict[str, dict[int, Outcome]] = defaultdict(dict)
    problems: dict[str, list[str]] = defaultdict(list)
    for run in members.itertuples():
        if run.outcome.result is None:
            problems[run.column].append(f"{run.outcome.problem} [seed {run.seed}]")
        else:
            outcomes[run.column][run.seed] = run.outcome
    results = [(o.run, o.result or {}) for of in outcomes.values() for o in of.values()]
    splits = {result.get("split") or "test" for _, result in results}
    backbones = {result.get("backbone") for _, result in results}
    fits = not first.label and backbones == {published.BACKBONE} and splits == {"test"}
    seeds = shared["seeds"] or set(members["seed"])
    shared |= _costs([result for run, result in results if not run.eval_only], first.untrained)
    shared |= {
        "line": first.Index,
        "average": False,
        "splits": splits,
        "beyond": marks(result for _, result in results),
        "seeds": sorted(seeds),
        "of": len(seeds),
        "comparable": beside_published and fits and bool(published.numbers(protocol)),
    }
    found = []
    for column in protocol.columns:
        parts = ("base", "new") if column == "h" else (column,)
        runs = {part: outcomes[part] for part in parts}
        whole = set.intersection(*map(set, runs.values()))
        accuracies = [[of[seed].accuracy for of in runs.values()] for seed in whole]
        values = [float(harmonic(*each)) if column == "h" else each[0] for each in accuracies]
        row = shared | {
            "column": column,
            "mean": mean(values) if values else None,
            "std": stdev(values) if len(values) > 1 else None,
            "interval": interval,
            "count": len(values),
            "complete": len(values) > 0 if first.untrained else len(values) == len(seeds),
            "problems": problems[column],
            "runs": runs,
        }
        row["spread"] = _half_interval(values) if interval else row["std"]
        found.append(row)
    return found


def _half_interval(values: list[float]) -> float | None:
    """Return half of the 95% interval of the mean (Student's t); None for fewer than two seeds."""
    from scipy.special import stdtrit

    count = len(values)
    return float(stdtrit(count - 1, 0.975)) * stdev(values) / count**0.5 if count > 1 else None


def _costs(trainings: list[dict], untrained: bool) -> dict:
    """Return the costs of trainings; None where unknown (logs) or without training."""
    taken = {
        key: [result[key] for result in trainings if result.get(key) is not None]
        for key in ("train_seconds", "peak_memory_mib")
    }
    steps = [r["train_seconds"] / r["train_steps"] for r in trainings if r.get("train_steps")]
    return {
        "num_params": trainings[-1].get("num_params") if trainings else None,
        "train_seconds": mean(taken["train_seconds"]) if taken["train_seconds"] else None,
        "step_seconds": mean(steps) if steps else None,
        "peak_memory_mib": None if untrained else max(taken["peak_memory_mib"], default=None),
    }


def _cell(row: dict) -> str:
    """Return `mean ± spread`, with the count if seeds or data sets are missing; or the problem."""
    if row["mean"] is None:
        return row["problems"][0].partition(":")[0] if row["problems"] else "-"
    spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
    missing = "" if row["complete"] else f" ({row['count']} of {row['of']})"
    return f"{row['mean']:.2f}{spread}{missing}"


def _published(row: dict) -> dict:
    """Return the published number of the same setting, and the difference of ours from it."""
    theirs = None
    if row["comparable"]:
        theirs = published.find(row["protocol"], row["trainer"], row["dataset"], row["shots"])
    if theirs is None:
        return {"published": None, "published_source": None, "misprint": False, "difference": None}
    number = theirs.values[row["column"]]
    lacking = row["mean"] is None or (row["average"] and not row["complete"])
    return {
        "published": number,
        "published_source": theirs.source,
        "misprint": theirs.misprint,
        "difference": None if theirs.misprint or lacking else row["mean"] - number,
    }


def _averages(rows: pd.DataFrame) -> list[dict]:
    """Return the averages over data sets, where there are several; H is that of the averages."""
    found: list[dict] = []
    targets = rows[rows["dataset"] != rows["source"]]
    of = targets.groupby("group")["dataset"].agg(set).to_dict()
    targets = targets.loc[sorted(targets.index, key=targets["rank"].__getitem__)]
    same = ["group", "method", "shots", "variant"]
    for (group, *_), members in targets.groupby(same, sort=False):
        if len(of[group]) > 1:
            found += _average(members, of[group])
    return found


def _average(members: pd.DataFrame, datasets: set[str]) -> list[dict]:
    """Return the rows of a method's average over those data sets on which it has all columns."""
    first = members.iloc[0]
    protocol: Protocol = first["protocol"]
    whole = members.groupby("line")["mean"].transform("count") == len(protocol.columns)
    comparable = all(members["comparable"])
    members = members[whole]
    means = {column: mean(of["mean"]) for column, of in members.groupby("column")}
    if "h" in means:
        means["h"] = float(harmonic(means["base"], means["new"]))
    last = list(protocol.columns)[-1]  # of base, new and h: h, which needs both others
    problems = [
        f"{row.name}, {row.dataset}, {shots_text(row.shots)}: a mean over "
        f"{row.count} of {row.of} seeds"
        for row in members[members["column"] == last].itertuples()
        if not row.complete
    ]
    count = members["line"].nunique()
    papers = published.datasets(protocol) - {first["source"]}
    shared = dict(first) | {
        "dataset": published.AVERAGE,
        "table": first["group"],
        "average": True,
        "line": -1 - first["line"],
        "std": None,
        "spread": None,
        "count": count,
        "of": len(datasets),
        "complete": count == len(datasets),
        "problems": [],
        "runs": {},
        "comparable": datasets == papers and comparable,
    }
    found = []
    for column in protocol.columns:
        of_last = {"problems": problems} if column == last else {}
        found.append(shared | {"column": column, "mean": means.get(column)} | of_last)
    return found


def settings(variant: str) -> dict[str, float]:
    """Parse a variant: `M2_N4` is M = 2 and N = 4."""
    found = re.findall(r"([A-Za-z-]+?)([\d.]+)(?=_|$)", variant)
    return {name.replace("-", " "): float(number) for name, number in found}


def setting_texts(found: dict[str, float]) -> list[str]:
    """Return each of `settings` in words, as `M = 2`."""
    return [f"{name} = {value:g}" for name, value in found.items()]
