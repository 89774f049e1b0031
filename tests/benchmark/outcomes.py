"""Make outcomes of runs that never ran, for tests of tables and plots."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.protocols import PROTOCOLS
from benchmark.protocols.configs import dataset_name
from benchmark.protocols.launches import write_launch
from benchmark.records import Outcome
from benchmark.report import summary
from benchmark.report.classes import Classes
from benchmark.report.compare import Comparisons
from benchmark.report.frame import each_row, frame, main_rows
from benchmark.report.further import further
from benchmark.report.page import page_of
from benchmark.report.render import render
from benchmark.report.table import Table
from benchmark.report.tables import tables
from trainers.prompting.checkpoint.identity import Identity, leaves
from trainers.prompting.checkpoint.keys import role_of
from trainers.prompting.record.predictions import write_predictions


def columns(label, prediction, confidence=1.0, images="{:03}.png", **more) -> dict:
    """Return the columns of predictions; `more` are further ones, or others than these."""
    label, prediction = np.array(label), np.array(prediction)
    found = {"image": [images.format(i) for i in range(len(label))], "label": label}
    found |= {"prediction": prediction, "top": prediction[:, None]}
    found |= {"probability": np.broadcast_to(confidence, len(label))[:, None]}
    return found | {"label_log_probability": np.zeros(len(label))} | more


COLUMNS = columns([0, 1], [0, 0])  # two images, one of them right


def ran(**config) -> dict:
    """Return what a record says of its run, which has these nested keys."""
    groups: dict = {}
    for place, value in leaves(config):
        groups.setdefault(role_of(place), {})[place] = value
    return Identity(**{k: x for k, x in groups.items() if k in Identity._fields})._asdict()


def answer(one: Outcome, folder: Path, answers: dict) -> Outcome:
    """Return an outcome in a new folder, which gets predictions."""
    folder.mkdir(parents=True)
    write_predictions(folder, answers)
    return replace(one, run=replace(one.run, folder=folder))


def outcome(
    trainer, seed, part, accuracy, dataset="emoji", problem=None, protocol="base2new", **more
) -> Outcome:
    """Return an outcome; `more` are further fields of the run or of its record."""
    names = {"config": "emoji", "shots": 16, "source": "", "opts": ()}
    result = {"split": "test", "backbone": "ViT-B/16", "num_params": 10, "train_seconds": 60.0}
    if trainer == "ZeroshotCLIP":
        result["num_params"] = 0
    names |= {key: more.pop(key) for key in list(more) if key in names}
    names |= {"trainer": trainer, "dataset": dataset, "seed": seed}
    run = PROTOCOLS[protocol].run(Path("nowhere"), part, **names)
    return Outcome(run, None if problem else {"accuracy": accuracy} | result | more, problem)


def base2new(answered, trainer, base, new, **more):
    """Return outcomes of seeds 1, 2, ..., given the numbers of right answers."""
    return [
        answered(trainer, seed, part, right, **more)
        for part, values in (("base", base), ("new", new))
        for seed, right in enumerate(values, 1)
    ]


def few_shot(trainer, shots, accuracies, dataset="dtd", **more) -> list[Outcome]:
    """Return few-shot outcomes of seeds 1, 2, ..."""
    return [
        outcome(trainer, seed, "all", value, dataset, protocol="few_shot", shots=shots, **more)
        for seed, value in enumerate(accuracies, 1)
    ]


def varied(setting, base, new, dataset="emoji", **more) -> list[Outcome]:
    """Return base-to-new outcomes of ALIGN with a setting of --vary, of seeds 1, 2, ..."""
    opts = tuple(setting.replace("=", "+").split("+"))
    return [
        outcome("ALIGN", seed, part, value, dataset, opts=opts, **more)
        for part, values in (("base", base), ("new", new))
        for seed, value in enumerate(values, 1)
    ]


def transfer(trainer, source, accuracies: dict, seed=1, shots=16, **more) -> list[Outcome]:
    """Return outcomes on the source and the targets, from accuracies by data set."""
    more = {"protocol": "cross_dataset", "source": source, "shots": shots} | more
    return [
        outcome(trainer, seed, "source" if name == source else "target", value, name, **more)
        for name, value in accuracies.items()
    ]


def some_outcomes():
    return [
        outcome("ALIGN", 1, "base", 40.0),
        outcome("ALIGN", 1, "new", 60.0),
        outcome("ALIGN", 2, "base", 80.0),
        outcome("ALIGN", 2, "new", 20.0),
        outcome("CoOp", 1, "base", 50.0),
        outcome("CoOp", 1, "new", 50.0),
        outcome("CoOp", 2, "base", 0.0, problem="failed: no memory"),
        outcome("CoOp", 2, "new", 0.0, problem="not run: it needs the other"),
    ]


def rows(outcomes, **options):
    """Return the rows of the tables of these outcomes."""
    return main_rows(summary.summarise(frame(outcomes), **options))


def numbers(outcomes, **options) -> list[dict]:
    """Return the rows of each line of the tables, by column."""
    of_lines = rows(outcomes, **options).groupby("line", sort=False)
    return [{row.column: row for row in each_row(members)} for _, members in of_lines]


def page(outcomes) -> str:
    """Return the HTML page of these outcomes."""
    return page_of(frame(outcomes), rows(outcomes))


def metrics(outcomes, **options) -> dict[str, Table]:
    """Return the tables of `--metrics` of these outcomes, by title."""
    tidy = frame(outcomes)
    rows = summary.of_metrics(summary.summarise(tidy, scores=further(tidy), **options))
    return {table.title: table for of in tables(rows).values() for table in of}


def classes(tidy) -> Classes:
    """Return the tables of `--classes` of these runs."""
    return Classes(tidy, summary.summarise(tidy))


def comparisons(tidy, method) -> Comparisons:
    """Return the tables of `--compare` of these runs."""
    return Comparisons(tidy, main_rows(summary.summarise(tidy)), method)


def shown(view, form: str, tidy) -> str:
    """Return a view in any format."""
    if form == "html":
        return page_of(tidy, main_rows(summary.summarise(tidy)), [view])
    return render(None, form, views=[view])


def lines(table: Table) -> dict[str, list[str]]:
    """Return the cells of each line of a table, by the line's name."""
    return {first.text: [cell.text for cell in cells] for first, *cells in table.lines}


def only_table(outcomes, **options) -> Table:
    ((table,),) = tables(rows(outcomes, **options)).values()
    return table


def leave(output: Path, outcomes, answers: dict | None = None) -> None:
    """Write the records of base-to-new or few-shot outcomes, and predictions, into run folders."""
    for run, result in ((o.run, o.result) for o in outcomes):
        folder = output / run.place
        folder.mkdir(parents=True)
        keys = {"trainer": run.trainer, "seed": run.seed}
        keys |= {"dataset": dataset_name(run.dataset) or run.dataset}
        keys |= {"shots": run.shots, "subsample_classes": run.subsample}
        write_launch(replace(run, folder=folder))
        (folder / "results.json").write_text(json.dumps(result | keys))
        if answers:
            write_predictions(folder, answers)
