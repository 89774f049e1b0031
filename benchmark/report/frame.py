"""One tidy data frame of all runs, from which every table, comparison, plot and file is made.

A row is a number: a run and a metric. What must not be mixed has lines of its own: runs whose
settings, CLIP or images differ, named by what differs (`ALIGN, BETA 0`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd

from trainers.prompting.checkpoint.identity import unlike
from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.errors import printable

from ..protocols import PROTOCOLS
from ..protocols.base import learns_nothing
from ..records import METRICS, OOD, SEVERAL, Outcome, costs, of_classes, other_code
from . import published
from .names import DATASETS, is_embedded, rank
from .own_sets import name_folders
from .training import Settings, always_named, compared_keys, earlier_text, plain, unfelt

# Runs that agree in these are of one training setting; with the same settings, of one line.
METHOD = ["protocol", "source", "dataset", "shots", "trainer", "label", "config", "origin"]
LINE = [*METHOD, "settings"]
# Lines that agree in these share an average over data sets.
MEAN = ["group", "name", "shots"]
# Runs that agree in these may be averaged over data sets, as far as the protocol lets them.
GROUP = ["protocol", "source", "embedded", "shots", "main"]

# Keys of records that runs of one table must share, with their names; each is compared among runs
# that agree in those before it (of test images: `split` and those after it).
FACTS = {"backbone": "backbone", "backbone_sha256": "weights", "features": "features",
         "split": "split",
         "num_test": "test images", "data_fingerprint": "images",
         "teacher": "teacher"}  # fmt: skip


def each_row(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows, with columns as attributes: as `itertuples`, but sooner for a short table."""
    names = list(table)
    for values in table.to_numpy(object):
        yield SimpleNamespace(**dict(zip(names, values, strict=True)))


def frame(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return a row for each run and metric, sorted as in the tables.

    Metrics are those of METRICS, `temperature`, `chance` (that of guessing, in %), and those of OOD
    as `ood_DATASET_KEY`. Each run has a row of its `main` metric, `accuracy`, or `map` where images
    have several labels; that of a failed run has a `problem` and no value.
    An image folder without a name has that of its folder (`own_sets`). The columns are those of
    `_facts`, and what each step adds.
    """
    runs = pd.DataFrame(list(map(_facts, name_folders(outcomes))))
    if runs.empty:
        return runs
    runs = _place(_in_every_table(_with_untrained(runs)))
    runs = _in_lines(_in_order(_with_names(runs)))
    values = pd.DataFrame(list(runs.pop("metrics")), runs.index, dtype=float)
    tidy = runs.join(values.melt(var_name="metric", ignore_index=False))
    tidy = tidy[tidy["value"].notna() | (tidy["metric"] == tidy["main"])]
    # in one block for each type, as a choice of rows copies all blocks
    texts = {name: object for name, kind in tidy.dtypes.items() if kind == "str"}
    return tidy.reset_index(drop=True).astype(texts).copy()


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main metrics, which the usual tables show."""
    return rows[rows["metric"] == rows["main"]]


def column_of(row: Any) -> str:
    """Return the key of a row's column in files; a column alone is named by the main metric."""
    column: str = row.main if row.column == "accuracy" else row.column
    return column


def _with_untrained(runs: pd.DataFrame) -> pd.DataFrame:
    """Say in `untrained` which runs trained nothing; shots are 0 where one such run serves all."""
    untrained = runs.groupby("trainer")["untrained"].transform("last")
    untrained = untrained.fillna(runs["trainer"].map(learns_nothing)).astype(bool)
    seeded = runs.groupby("trainer")["seeded"].transform("any")  # also those without a record
    runs["untrained"] = (untrained | (runs["shots"] == 0)) & ~seeded
    runs.loc[runs["untrained"] & runs["once"], "shots"] = 0
    return runs


def _place(runs: pd.DataFrame) -> pd.DataFrame:
    """Number the `group` that an average is over and the `table`; add the `seeds` of a table."""
    across = runs["across"]  # the average is over the columns of a table, or over tables
    keys = runs[GROUP].assign(
        embedded=runs["embedded"] & (across != "dataset"),
        shots=runs["shots"].where(across != "shots", 0),
    )
    runs["group"] = keys.groupby(GROUP).ngroup()
    tables = keys.assign(dataset=runs["dataset"]).groupby([*GROUP, "dataset"]).ngroup() + len(runs)
    runs["table"] = tables.where(across != "dataset", runs["group"])
    trained = runs[~runs["untrained"]].groupby("table")["seed"]
    runs["seeds"] = runs["table"].map(trained.agg(lambda seeds: sorted(set(seeds))))
    return runs


def _with_names(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the `method`, all `settings` in which its runs differ, and the `name`: both in words."""
    changes = runs.groupby(METHOD)["changes"].transform("first")  # for those without a record
    changes = runs["changes"].where(runs["changes"].notna(), changes)
    runs["settings"] = [*map(_with, runs["settings"], changes)]
    facts = _differing_facts(runs)
    runs["settings"] = [*map(_with, runs["settings"] + facts, _differing_keys(runs, facts))]
    configs = runs.groupby(["table", "shots", "trainer", "label", "origin"])["config"]
    runs["several"] = configs.transform("nunique") > 1
    ours = set(runs["trainer"][runs["label"] == ""])
    runs["method"] = [_method(run, ours) for run in each_row(runs)]
    runs["name"] = [
        printable(", ".join([r.method, *setting_texts(r.settings)])) for r in each_row(runs)
    ]
    runs["apart"] = _apart(runs)
    return runs


def _in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Sort the runs as in the tables; `rank` is the place of a run's line in its table."""
    order = [_sort_key(run) for run in each_row(runs)]
    ranks = {key: i for i, key in enumerate(sorted({key[-1] for key in order}))}
    runs["rank"] = [ranks[key[-1]] for key in order]
    return runs.iloc[sorted(range(len(runs)), key=order.__getitem__)].reset_index(drop=True)


def _in_lines(runs: pd.DataFrame) -> pd.DataFrame:
    """Number the `line` of each run, give it what holds for its line, and drop repeated runs."""
    runs["line"] = runs.groupby(LINE, sort=False).ngroup()
    edited = runs.groupby("line")["edited"].agg(lambda lists: sorted({*sum(lists, [])}))
    runs["edited"] = runs["line"].map(edited)
    marks = runs.groupby("line")["beyond"].agg(lambda lists: published.in_order(sum(lists, [])))
    runs["beyond"] = runs["line"].map(marks)
    # the same settings in another folder, as of --vary, are the same run
    runs = runs.sort_values("problem", key=lambda problems: problems.notna(), kind="stable")
    runs = runs.drop_duplicates(["line", "dataset", "column", "seed"]).sort_index()
    return runs


def _facts(outcome: Outcome) -> dict:
    """Return the columns of a run that are its own."""
    run, protocol, result = outcome.run, outcome.run.protocol, outcome.result or {}
    params = result.get("num_params")
    several = outcome.metric in SEVERAL  # also of a run without a record
    names = [key for key in METRICS if several == (key in SEVERAL)]
    metrics = {key: result.get(key) for key in (*names, "temperature")}
    classes = result.get("num_classes")
    guessed = 100 / classes if classes else None
    metrics["chance"] = result.get("positive_share") if several else guessed
    metrics |= {f"ood_{name}_{key}": measured[key]
                for name, measured in (result.get("ood") or {}).items()
                for key in OOD if key in measured}  # fmt: skip
    return {key: result.get(key) for key in (*FACTS, "precision")} | {
        "protocol": protocol.name, "across": protocol.across, "once": protocol.untrained_once,
        "source": run.source, "dataset": run.dataset, "embedded": is_embedded(run.dataset),
        "shots": run.shots, "trainer": run.trainer, "label": getattr(run, "label", ""),
        "config": run.config, "origin": outcome.origin, "seed": run.seed,
        "column": protocol.parts[run.part].column, "training": not run.eval_only,
        "lacking": result.get("classes_without_positives") or 0,
        "problem": outcome.problem, "main": outcome.metric,
        "other_data": result.get("as_published") is False,
        "teacher": earlier_text(outcome, "teacher"),
        "settings": tuple(
            (key, KEYS[f"DATASET.{key}"].default if f"DATASET.{key}" in unfelt(result) else value)
            for key, value in run.varied
        ),
        "keys": compared_keys(result), "per_dataset": result.get("per_dataset") or (),
        "seeded": bool(result.get("seeded")),
        "untrained": None if params is None else params == 0, "changes": always_named(outcome),
        "start": earlier_text(outcome, "start"),
        "beyond": result.get("beyond") or [],
        "edited": other_code(result),
        "least": (result.get("training_images") or {}).get("least"),
        **costs(result),
        **({"num_test": None} if result.get("tasks") else {}),  # intervals count tasks, not images
        "classes": of_classes(result), "metrics": metrics, "outcome": outcome,
    }  # fmt: skip


def _in_every_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Repeat untrained methods of transfer protocols in the table of each number of shots."""
    once = (runs["across"] == "dataset") & (runs["shots"] == 0)
    if not once.any():
        return runs
    keys = ["protocol", "source"]
    tables = runs.loc[runs["shots"] > 0, [*keys, "shots"]].drop_duplicates()
    repeated = runs[once].drop(columns="shots").merge(tables, "left", keys)
    repeated["shots"] = repeated["shots"].fillna(0).astype(int)
    return pd.concat([runs[~once], repeated], ignore_index=True)


def _with(settings: Settings, more: Settings | None) -> Settings:
    """Return settings with further ones, if any, whose keys they do not have."""
    names = dict(settings)
    return (*settings, *(pair for pair in more or () if pair[0] not in names))


def _differing_facts(runs: pd.DataFrame) -> pd.Series:
    """Return for each run in what its CLIP, images and precision differ from others'."""
    cell, facts = ["group"], pd.Series([()] * len(runs), runs.index)
    training = [runs[key] for key in (*METHOD, "settings", "seed")]  # its tests are in one line
    for key, name in (*FACTS.items(), ("precision", "precision")):
        cell = ["group", "dataset", "column"] if key == "split" else cell
        cell = ["group", *METHOD[4:]] if key == "precision" else cell  # of one method
        by_cell = runs.groupby(cell, dropna=False)[key]
        # at all first, as looking at each group takes time
        if runs[key].nunique() > 1 and (differs := by_cell.transform("nunique") > 1).any():
            texts = runs[key].where(differs).map(_short_text, na_action="ignore")
            joint_texts = texts.groupby(training, sort=False).transform(
                lambda texts: " + ".join(dict.fromkeys(texts.dropna()))
            )
            facts += joint_texts.map(lambda text, name=name: ((name, text),) if text else ())
        cell = [*cell, key]
    return facts


def _short_text(value: Any) -> str:
    text = f"{value:.0f}" if isinstance(value, float) else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text  # of a hash, the beginning


def _unlike(groups: Iterable, places: Iterable, configs: Iterable[dict]) -> Iterator[tuple]:
    """Yield group, key and both configs for each difference from the first in a group and place."""
    first: dict[tuple, dict] = {}
    for group, place, config in zip(groups, places, configs, strict=True):
        beside = first.setdefault((group, place), config) if config else config
        for key in unlike(beside, config) if beside is not config else ():
            yield group, key, beside, config


def _differing_keys(runs: pd.DataFrame, facts: pd.Series) -> list[Settings]:
    """Return for each run the keys in which configs of its method differ on one data set."""
    methods = [*zip(*(runs[key] for key in ("group", *METHOD[4:])), facts, strict=True)]
    places = zip(runs["dataset"], runs["shots"], runs["column"], strict=True)
    keys: dict[tuple, dict] = defaultdict(dict)
    for method, key, *_ in _unlike(methods, places, runs["keys"]):
        keys[method][key] = None
    names = {method: _short(differing) for method, differing in keys.items()}
    return [
        tuple(
            (name, plain(config.get(key))) for key, name in names.get(method, {}).items() if config
        )
        for method, config in zip(methods, runs["keys"], strict=True)
    ]


def _apart(runs: pd.DataFrame) -> list[str]:
    """Return for each run what differs between data sets of its average, as `BETA 0, 0.5`."""
    means = [*zip(*(runs[key] for key in MEAN), strict=True)]
    values: dict[tuple, dict[str, dict]] = defaultdict(lambda: defaultdict(dict))
    marked = {key for keys in runs["per_dataset"] for key in keys}  # a mark says so already
    for mean, key, *pair in _unlike(means, runs["column"], runs["keys"]):
        if not key.startswith("DATASET.") and key not in marked:
            values[mean][key] |= dict.fromkeys(str(plain(config.get(key))) for config in pair)
    texts = {
        mean: "; ".join(f"{name} {', '.join(keys[key])}" for key, name in _short(keys).items())
        for mean, keys in values.items()
    }
    return [texts.get(mean, "") for mean in means]


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Return the last word of each dotted key, or the last two where several end in it."""
    words = [key.rpartition(".")[2] for key in keys]
    return {
        key: word if words.count(word) == 1 else ".".join(key.split(".")[-2:])
        for key, word in zip(keys, words, strict=True)
    }


def _method(run, ours: set[str]) -> str:
    """Return the name in the tables, with the config and origin where there are several."""
    name = f"{run.label} (logs)" if run.label in ours else run.label or run.trainer
    marks = [run.config] * run.several + [run.origin] * bool(run.origin)
    return f"{name} ({', '.join(marks)})" if marks else name


def _sort_key(run) -> tuple:
    """Return the sort key of a run; the last entry is the sort key of its line in a table."""
    names = list(DATASETS)
    place = names.index(run.dataset) if run.dataset in names else len(names)
    settings = tuple((key, isinstance(value, str), value) for key, value in run.settings)
    line = rank(run.trainer), run.label, run.config, settings, run.origin
    dataset = run.embedded, run.dataset != run.source, place, run.dataset
    return list(PROTOCOLS).index(run.protocol), run.source, *dataset, run.shots, line


def setting_texts(settings: Settings) -> Iterator[str]:
    """Yield each setting in words, as `BETA 0.5`."""
    for key, value in settings:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        yield f"{text} {key}" if key == "test images" else f"{key} {text}"
