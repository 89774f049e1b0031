"""One tidy data frame of all runs, from which every table, comparison, plot and file is made.

A row is a number: a run and a metric. What must not be mixed has lines of its own: runs whose
settings, CLIP or images differ, named by what differs (`ALIGN, BETA 0`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ..protocols import PROTOCOLS
from ..protocols.base import learns_nothing
from ..protocols.configs import plain_name, varied
from ..records import METRICS, Outcome, unlike, used
from . import published
from .methods import rank
from .names import DATASETS, embedded
from .paired import harmonic

# Runs that agree in these share a line; `settings` are those that tell it from other lines.
LINE = ["protocol", "source", "dataset", "shots", "trainer", "label", "config", "variant",
        "origin", "settings"]  # fmt: skip

# Lines that agree in these share an average over data sets.
MEAN = ["group", "name", "shots"]

# Keys of records that runs of one table must share, with their names; each is compared among runs
# that agree in those before it (of test images: `split` and those after it).
FACTS = {"backbone": "backbone", "backbone_sha256": "weights", "split": "split",
         "num_test": "test images", "data_fingerprint": "images"}  # fmt: skip
# Keys of DATASET that change the training images, with their defaults; they are always named.
CHANGES = {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}
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
    seeded = runs.groupby("trainer")["seeded"].transform("any")  # also those without a record
    runs["untrained"] = (known | (runs["shots"] == 0)) & ~seeded
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
    runs["settings"] += _changes(runs)
    runs["settings"] += _differing(runs, _others(runs))
    several = runs.groupby(["table", "shots", "trainer", "label", "origin"])["config"]
    several = several.transform("nunique") > 1
    ours = set(runs["trainer"][runs["label"] == ""])
    runs["method"] = [
        _method(run, ours, of) for run, of in zip(runs.itertuples(), several, strict=True)
    ]
    runs["name"] = [", ".join([r.method, *setting_texts(r.settings)]) for r in runs.itertuples()]
    apart = _apart(runs)
    runs["apart"] = [apart.get(of, "") for of in zip(*(runs[key] for key in MEAN), strict=True)]
    trained = runs[~runs["untrained"]].groupby("table")["seed"].agg(lambda of: sorted(set(of)))
    runs["seeds"] = runs["table"].map(trained)
    order = [_order(run) for run in runs.itertuples()]
    ranks = {key: i for i, key in enumerate(sorted({key[-1] for key in order}))}
    runs["rank"] = [ranks[key[-1]] for key in order]
    runs = runs.iloc[sorted(range(len(runs)), key=order.__getitem__)].reset_index(drop=True)
    runs["line"] = runs.groupby(LINE, sort=False).ngroup()
    marks = runs.groupby("line")["beyond"].agg(lambda of: published.in_order(sum(of, [])))
    runs["beyond"] = runs["line"].map(marks)
    # the same settings in another folder, as of --vary, are the same run
    runs = runs.sort_values("problem", key=lambda of: of.notna(), kind="stable")
    runs = runs.drop_duplicates(["line", "dataset", "column", "seed"]).sort_index()
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
    seconds = result.get("train_seconds")
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
        "train_seconds": seconds,
        "step_seconds": seconds / steps if steps and seconds is not None else None,
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
    """Return in what each run's CLIP and test images differ from those in the same tables."""
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


def _changes(runs: pd.DataFrame) -> list[Settings]:
    """Return how the training images of each run are changed, unless its settings say so.

    A run without a record has the changes of other seeds.
    """
    runs = runs.assign(changes=[changed(outcome) for outcome in runs["outcome"]])
    known = runs.groupby(LINE[:-1])["changes"].transform("first")
    return [
        tuple(pair for pair in of if pair[0] not in dict(settings)) if isinstance(of, tuple) else ()
        for of, settings in zip(known, runs["settings"], strict=True)
    ]


def changed(outcome: Outcome) -> Settings | None:
    """Return the keys in CHANGES that are not as by default; None without a record."""
    config = (outcome.result or {}).get("config")
    if config is None:
        return None
    if learns_nothing(outcome.run.trainer):
        return ()
    found = {key: used(config, f"DATASET.{key}") for key in CHANGES}
    return tuple((k, _plain(v)) for k, v in found.items() if v not in (None, CHANGES[k]))


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


def _apart(runs: pd.DataFrame) -> dict[tuple, str]:
    """Return by MEAN the settings that differ only between data sets, as `BETA 0, 0.5`."""
    start: dict[tuple, dict] = {}
    found: dict[tuple, dict[str, dict]] = defaultdict(lambda: defaultdict(dict))
    done = runs[runs["problem"].isna()]
    for run in done.drop_duplicates([*MEAN, "dataset", "column"]).itertuples():
        config = (run.outcome.result or {}).get("config") or {}
        of = run.group, run.name, run.shots
        beside = start.setdefault((of, run.column), config)
        chosen = used(config, "TRAINER.PER_DATASET") or ()  # a mark says so already
        for key in unlike(beside, config) if beside is not config else ():
            if not key.startswith("DATASET.") and key not in ("TRAINER.PER_DATASET", *chosen):
                texts = (str(_plain(used(each, key))) for each in (beside, config))
                found[of][key] |= dict.fromkeys(texts)
    return {
        of: "; ".join(f"{name} {', '.join(keys[key])}" for key, name in _short(keys).items())
        for of, keys in found.items()
    }


def apart_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the settings in which the data sets of averages differ, if any."""
    said = dict.fromkeys(f"{row.name} ({row.apart})" for row in rows if row.apart)
    return [f"Settings that differ between the data sets: {', '.join(said)}."] if said else []


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
