"""One tidy data frame of all runs, from which every table, comparison, plot and file is made.

A row is a number: a run and a metric. `rows` turns it into the numbers of tables: a row for each
line of a table and column of its protocol. What must not be mixed has lines of its own: runs whose
settings, CLIP or images differ, named by what differs (`ALIGN, BETA 0`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ..protocols import PROTOCOLS
from ..protocols.base import learns_nothing, shots_text
from ..protocols.configs import plain_name, varied
from ..records import METRICS, Outcome, unlike, used
from . import published
from .methods import rank
from .names import DATASETS, embedded
from .paired import harmonic

# Runs that agree in these share a line; `settings` are those that tell it from other lines.
LINE = ["protocol", "source", "dataset", "shots", "trainer", "label", "config", "variant",
        "origin", "settings"]  # fmt: skip
COSTS = {"num_params": "last", "train_seconds": "mean", "step_seconds": "mean",
         "peak_memory_mib": "max"}  # fmt: skip

# Keys of records that runs of one table must share, with their names; each is compared among runs
# that agree in those before it (of test images: `split` and those after it).
FACTS = {"backbone": "backbone", "backbone_sha256": "weights", "split": "split",
         "num_test": "test images", "data_fingerprint": "images"}  # fmt: skip
MOST = 12  # characters of a hash; names of backbones are shorter

Settings = tuple[tuple[str, Any], ...]  # keys and values


def frame(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return a row for each run and metric, sorted as in the tables.

    A failed run has a row with the metric `accuracy`, a `problem` and no value. The accuracies on
    base and on new classes have a third row, with their harmonic mean in the column `h`.
    """
    runs = pd.DataFrame([_facts(outcome) for outcome in outcomes])
    if runs.empty:
        return runs
    known = runs.groupby("trainer")["untrained"].transform("last")
    known = known.fillna(runs["trainer"].map(learns_nothing)).astype(bool)
    runs["untrained"] = (known | (runs["shots"] == 0)) & ~runs["seeded"]
    once = runs["protocol"].map(lambda name: PROTOCOLS[name].untrained_once)
    runs.loc[runs["untrained"] & once, "shots"] = 0
    runs = _in_every_table(runs)
    groups = [_group(run) for run in runs.itertuples()]
    tables = [
        group if PROTOCOLS[name].across == "dataset" else (*group, dataset)
        for group, name, dataset in zip(groups, runs["protocol"], runs["dataset"], strict=True)
    ]
    number = {key: i for i, key in enumerate(dict.fromkeys(groups + tables))}
    runs["group"], runs["table"] = [*map(number.get, groups)], [*map(number.get, tables)]
    runs["settings"] += _differing(runs, _others(runs))
    several = runs.groupby(["table", "shots", "trainer", "label", "origin"])["config"]
    several = several.transform("nunique") > 1
    ours = set(runs["trainer"][runs["label"] == ""])
    runs["method"] = [
        _method(run, ours, of) for run, of in zip(runs.itertuples(), several, strict=True)
    ]
    runs["name"] = [", ".join([r.method, *setting_texts(r.settings)]) for r in runs.itertuples()]
    trained = runs[~runs["untrained"]].groupby("table")["seed"].agg(lambda of: sorted(set(of)))
    runs["seeds"] = runs["table"].map(trained)
    order = [_order(run) for run in runs.itertuples()]
    ranks = {key: i for i, key in enumerate(sorted({key[-1] for key in order}))}
    runs["rank"] = [ranks[key[-1]] for key in order]
    runs = runs.iloc[sorted(range(len(runs)), key=order.__getitem__)].reset_index(drop=True)
    runs["line"] = runs.groupby(LINE, sort=False).ngroup()
    measured = [{key: (o.result or {}).get(key) for key in METRICS} for o in runs["outcome"]]
    values = pd.DataFrame(measured, runs.index, METRICS, float)
    tidy = runs.join(values.melt(var_name="metric", ignore_index=False))
    tidy = tidy[tidy["value"].notna() | (tidy["metric"] == "accuracy")]
    return pd.concat([tidy, _harmonic(tidy)], ignore_index=True)


def _facts(outcome: Outcome) -> dict:
    """Return the columns of a run that are its own."""
    run, result = outcome.run, outcome.result or {}
    tried = variant_settings(run.variant)
    params, steps = result.get("num_params"), result.get("train_steps")
    return {
        "protocol": run.protocol.name, "source": run.source, "dataset": run.dataset,
        "shots": run.shots, "trainer": run.trainer, "label": getattr(run, "label", ""),
        "config": plain_name(run.config), "variant": run.variant, "origin": outcome.origin,
        "seed": run.seed, "column": run.protocol.parts[run.part].column, "problem": outcome.problem,
        "tried": " and ".join(dict(tried)), "settings": tried + varied(run.config),
        "seeded": bool(result.get("seeded")),
        "untrained": None if params is None else params == 0,
        "embedded": embedded(run.dataset), "split": result.get("split") or "test",
        "backbone": result.get("backbone"), "beyond": result.get("beyond") or [],
        "training": not run.eval_only, "num_params": params,
        "train_seconds": result.get("train_seconds"),
        "step_seconds": result["train_seconds"] / steps if steps else None,
        "peak_memory_mib": result.get("peak_memory_mib"), "outcome": outcome,
    }  # fmt: skip


def _in_every_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Repeat untrained methods of transfer protocols in the table of each number of shots."""
    trained = runs[runs["shots"] > 0].groupby(["protocol", "source"])["shots"].agg(set).to_dict()
    runs["shots"] = [
        list(trained.get((run.protocol, run.source), {0}))
        if PROTOCOLS[run.protocol].across == "dataset" and run.shots == 0
        else [run.shots]
        for run in runs.itertuples()
    ]
    return runs.explode("shots", ignore_index=True).astype({"shots": int})


def _group(run) -> tuple:
    """Return the key of rows whose data sets may be averaged."""
    across = PROTOCOLS[run.protocol].across
    if across == "dataset":  # the average is over the columns of a table
        return run.protocol, run.source, run.shots
    return run.protocol, run.embedded, None if across == "shots" else run.shots, run.tried


def _others(runs: pd.DataFrame) -> list[Settings]:
    """Return what tells each run's CLIP and test images from those of runs in the same tables."""
    results = [outcome.result or {} for outcome in runs["outcome"]]
    cells: list[tuple] = [(group,) for group in runs["group"]]
    of_images = [*zip(runs["group"], runs["dataset"], runs["column"], strict=True)]
    trainings = [*zip(*(runs[name] for name in [*LINE[:-1], "seed"]), strict=True)]
    found: dict[tuple, dict[str, dict]] = defaultdict(lambda: defaultdict(dict))
    for key, name in FACTS.items():
        cells = of_images if key == "split" else cells
        values = [result.get(key) for result in results]
        seen: dict[tuple, set] = defaultdict(set)
        for cell, value in zip(cells, values, strict=True):
            seen[cell] |= {value} - {None}
        for cell, value, training in zip(cells, values, trainings, strict=True):
            if len(seen[cell]) > 1 and value is not None:
                found[training][name][str(value)[:MOST]] = None
        cells = [(*cell, value) for cell, value in zip(cells, values, strict=True)]
    # a training and its tests on several classes are one line
    return [tuple((k, " + ".join(v)) for k, v in found[of].items()) for of in trainings]


def _differing(runs: pd.DataFrame, others: list[Settings]) -> list[Settings]:
    """Return what differs between runs of a method: `others`, and keys of the config."""
    first: dict[tuple, dict] = {}
    keys: dict[tuple, dict] = defaultdict(dict)
    methods, configs = [], []
    for run, other in zip(runs.itertuples(), others, strict=True):
        of = run.group, run.trainer, run.label, run.config, run.variant, run.origin, other
        config = (run.outcome.result or {}).get("config") or {}
        methods.append(of)
        configs.append(config)
        if config:
            beside = first.setdefault((of, run.dataset, run.shots, run.column), config)
            if beside is not config:
                keys[of] |= dict.fromkeys(unlike(beside, config))
    found = []
    for of, config, own in zip(methods, configs, runs["settings"], strict=True):
        short = _short(keys[of]) if keys[of] and config else {}
        said = {name: used(config, key) for key, name in short.items() if name not in dict(own)}
        found.append(of[-1] + tuple((name, _plain(value)) for name, value in said.items()))
    return found


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Return the last word of each dotted key, or the last two where several end in it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: word if last.count(word) == 1 else ".".join(key.split(".")[-2:])
        for key, word in zip(keys, last, strict=True)
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def _method(run, ours: set[str], several_configs: bool) -> str:
    """Return the name in the tables, with the config and origin where there are several."""
    name = f"{run.label} (logs)" if run.label in ours else run.label or run.trainer
    marks = [run.config] * several_configs + [run.origin] * bool(run.origin)
    return f"{name} ({', '.join(marks)})" if marks else name


def _order(run) -> tuple:
    """Return the sort key of a run; the last entry is the sort key of its line in a table."""
    names = list(DATASETS)
    place = names.index(run.dataset) if run.dataset in names else len(names)
    settings = tuple((key, isinstance(value, str), value) for key, value in run.settings)
    of = rank(run.trainer), run.label, run.config, settings, run.origin
    dataset = run.embedded, run.dataset != run.source, place, run.dataset
    return list(PROTOCOLS).index(run.protocol), run.source, *dataset, run.shots, of


def _harmonic(tidy: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of H, for each line and seed with accuracies on base and new classes."""
    accuracy = tidy[(tidy["metric"] == "accuracy") & tidy["value"].notna()]
    base, new = (
        accuracy[accuracy["column"] == name].set_index(["line", "seed"]) for name in ("base", "new")
    )
    h = harmonic(base["value"], new["value"].reindex(base.index))
    return base.assign(value=h, column="h", training=False).dropna(subset="value").reset_index()


# ------------------------------------------------------------------------------- lines of tables


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
    lines["split"] = of_line["split"].agg(lambda of: " and ".join(sorted(set(of))))
    lines["beyond"] = of_line["beyond"].agg(lambda of: published.in_order(sum(of, [])))
    lines["backbones"] = of_line["backbone"].agg(lambda of: set(of.dropna()))
    own = of_line["seed"].agg(lambda of: sorted(set(of)))
    lines["seeds"] = lines["seeds"].where(lines["seeds"].notna(), own)
    lines["comparable"] = [beside_published and _comparable(line) for line in lines.itertuples()]
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
    found["cell"] = [_cell(row) for row in found.itertuples()]
    theirs = pd.DataFrame([_published(row) for row in found.itertuples()], found.index)
    return found.join(theirs)


def lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of each line, by column."""
    of_lines = [members.itertuples() for _, members in rows.groupby("line", sort=False)]
    return [{row.column: row for row in members} for members in of_lines]


def _comparable(line) -> bool:
    """Return True if a line has the setting of published numbers."""
    fits = not line.label and line.backbones == {published.BACKBONE} and line.split == "test"
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
        for row in last[~last["complete"].astype(bool)].itertuples()
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
    theirs = None
    if row.comparable:
        protocol = PROTOCOLS[row.protocol]
        theirs = published.find(protocol, row.trainer, row.dataset, row.shots)
    if theirs is None:
        return {"published": None, "published_source": None, "misprint": False, "difference": None}
    number = theirs.values[row.column]
    lacking = theirs.misprint or pd.isna(row.mean) or (row.average and not row.complete)
    return {
        "published": number,
        "published_source": theirs.source,
        "misprint": theirs.misprint,
        "difference": None if lacking else row.mean - number,
    }


def variant_settings(variant: str) -> Settings:
    """Parse the variant of an ablation: `M2_N4` is M 2, N 4; `additive-beta0.5` has two keys."""
    found: dict[str, Any] = {}
    for name, number in re.findall(r"([A-Za-z-]+?)([\d.]+)(?=_|$)", variant):
        form, _, key = name.rpartition("-")
        found |= {"BETA_FORM": form} if form else {}
        found[key.upper()] = float(number)
    return tuple(found.items())


def setting_texts(settings: Settings) -> Iterator[str]:
    """Yield each setting in words, as `BETA 0.5`."""
    for key, value in settings:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        yield f"{text} {key}" if key == "test images" else f"{key} {text}"
