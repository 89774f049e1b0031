"""What `--metrics` adds to a frame: metrics over both halves, and doubts about metrics of runs."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from trainers.prompting.errors import need
from trainers.prompting.record.metrics import joint_metrics

from ..records import Outcome, at_bound
from .frame import each_row
from .names import seeds_text
from .per_image import each_seed, joint_arrays, tasks_of
from .summary import BOTH
from .training import ATTACK

MISSING = "missing: results.json has no metrics; repeat the run with TEST.PREDICTIONS True"
AT_BOUND = "temperature at its bound: ECE scaled could be less"
PLACE = ["line", "column"]
Score = tuple[int, str, str, int | None, float | None, str | None]


def further(tidy: pd.DataFrame) -> pd.DataFrame:
    """Return values of the column BOTH, and problems of metrics that runs lack or that mislead."""
    scores = [*_joint(tidy), *_missing(tidy), *_bounds(tidy), *_weak(tidy)]
    columns = [*PLACE, "metric", "seed", "value", "problem"]
    return pd.DataFrame(scores, columns=columns).astype({"value": float})


def _joint(tidy: pd.DataFrame) -> Iterator[Score]:
    """Yield the metrics of each training over both halves, and why some are missing."""
    halves = tidy[tidy["column"].isin(("base", "new")) & (tidy["metric"] == "accuracy")]
    for line, members in halves[halves["value"].notna()].groupby("line", sort=False):
        base, new = (
            members[members["column"] == half].set_index("seed")["outcome"].to_dict()
            for half in ("base", "new")
        )
        pairs = {seed: (base.get(seed), new.get(seed)) for seed in sorted(base | new)}
        by_seed, problems = each_seed(pairs, joint)
        for seed, metrics in by_seed.items():
            for metric, value in metrics.items():
                yield line, BOTH, metric, seed, value, None
        for why in problems:
            yield line, BOTH, "joint_accuracy", None, None, f"missing: {why}"


def joint(runs: tuple[Outcome | None, Outcome | None]) -> dict[str, float]:
    """Return `joint_metrics` of one training, from its runs on base and on new classes."""
    for run, half in zip(runs, ("base", "new"), strict=True):
        need(run, f"no finished run on {half} classes")
    base, new = map(joint_arrays, filter(None, runs))
    return joint_metrics(base, new) or {}


def _missing(tidy: pd.DataFrame) -> Iterator[Score]:
    """Yield a problem of the likelihood for each line with runs that kept no metrics."""
    metric = "negative_log_likelihood"
    done = tidy[(tidy["metric"] == "accuracy") & tidy["value"].notna()]
    done = done[~done["outcome"].map(tasks_of).astype(bool)]  # without by design
    having = pd.MultiIndex.from_frame(tidy.loc[tidy["metric"] == metric, [*PLACE, "seed"]])
    lacking = done[~pd.MultiIndex.from_frame(done[[*PLACE, "seed"]]).isin(having)]
    for (line, column), seeds in lacking.groupby(PLACE, sort=False)["seed"]:
        yield line, column, metric, None, None, f"{MISSING} [{seeds_text(sorted(seeds))}]"


def _bounds(tidy: pd.DataFrame) -> Iterator[Score]:
    """Yield a problem of the scaled ECE for each line whose temperature is at its bound."""
    limits = tidy[tidy["metric"] == "temperature"]
    limits = limits[limits["value"].map(at_bound).astype(bool)]
    for (line, column), seeds in limits.groupby(PLACE, sort=False)["seed"]:
        text = f"{AT_BOUND} [{seeds_text(sorted(seeds))}]"
        yield line, column, "calibration_error_scaled", None, None, text


def _weak(tidy: pd.DataFrame) -> Iterator[Score]:
    """Yield a problem for each attack that others show to be weak, or that found no gradient."""
    robust = tidy[tidy["metric"] == "robust_accuracy"]
    robust = robust.assign(of=[*map(_case, each_row(robust))])
    for _, members in robust.groupby("of", sort=False):
        first = members.drop_duplicates("line").set_index("line")
        means = members.groupby("line", sort=False)["value"].mean()
        best = means.idxmin()
        for line, row in zip(first.index, each_row(first), strict=True):
            why = _attack(row).get("weak")
            if not why and means[line] > means[best] + 1:
                why = f"{means[best]:.2f}% are left by {first['name'][best]}"
            if why:
                text = f"attack too weak: {why}"
                yield line, row.column, "robust_accuracy", None, None, text


def _case(row: Any) -> tuple:
    """Return what attacks of the same method that may be compared share."""
    facts, others = _attack(row), [pair for pair in row.settings if pair[0] != ATTACK]
    place = row.table, row.dataset, row.column, row.shots
    return *place, row.method, str(others), facts.get("eps"), facts.get("images")


def _attack(row: Any) -> dict:
    return row.outcome.result.get(ATTACK) or {}
