"""Report single runs by their folders: facts, metrics, classes and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trainers.prompting.errors import UserError, printable
from trainers.prompting.record.several import mean_interval

from ..protocols.base import Protocol, Run
from ..protocols.few_shot import FEW_SHOT
from ..records import (
    COSTS,
    METRICS,
    BadResult,
    Outcome,
    at_bound,
    costs,
    of_classes,
    other_code,
    read_record,
    value_of,
)
from .classes import class_table, images_of_classes, measured
from .frame import setting_texts
from .notes import explain
from .own_sets import name_in
from .per_image import arrays_of
from .render import as_csv, in_style
from .table import TABLE_FORMATS, Cell, Table, interval, lead
from .training import ATTACK, INIT, TRAINED, attacks, earlier_text, image_changes

if TYPE_CHECKING:
    from .plots import Drawing


def overview(folders: list[Path], form: str) -> str:
    """Return a table with a line for each of these runs; in other formats, as `report_runs`."""
    if form not in TABLE_FORMATS:
        return report_runs(folders, form)
    return in_style([_overview({folder: read_run(folder) for folder in folders})], form)


def _overview(runs: Mapping[Path, Outcome]) -> Table:
    heads = dict.fromkeys(METRICS[outcome.metric].head for outcome in runs.values())
    head = ["Run", "Method", "Data set", "Shots", "Seed", " or ".join(heads)]
    lines = []
    for folder, outcome in runs.items():
        record = outcome.result or {}
        facts = [record.get("trainer"), outcome.run.dataset, record.get("shots")]
        facts += [record.get("seed"), f"{outcome.number:.2f}"]
        texts = ("-" if fact is None else str(fact) for fact in facts)
        lines.append([Cell(str(folder)), *map(Cell, texts)])
    note = "`report RUN` shows one with its classes, `report RUN RUN --compare RUN` pairs two."
    return Table("Single runs", head, lines, [note])


def report_runs(folders: list[Path], form: str, plots: Path | None = None) -> str:
    """Return the tables of finished runs, or in CSV and JSON their records.

    `form` is one of FORMATS, of which `html` has pictures, too; `plots` is a folder for pictures.
    """
    runs = {folder: read_run(folder) for folder in folders}
    results = {folder: outcome.result or {} for folder, outcome in runs.items()}
    drawn: list[Drawing] = []
    if plots or form == "html":
        from .pictures import figures_of_run  # matplotlib is slow to load

        drawn = [figures_of_run(outcome, _where(outcome)) for outcome in runs.values()]
    if plots:
        from .plots import write_figures

        parent = os.path.commonpath([folder.absolute() for folder in runs])
        for folder, of_run in zip(runs, drawn, strict=True):
            write_figures(of_run, plots / os.path.relpath(folder, parent))
    if form == "json":
        return json.dumps([{"folder": str(f), **result} for f, result in results.items()], indent=2)
    if form == "csv":
        return as_csv([
            {"folder": str(folder), "class": name}
            | {measured(outcome.metric).replace(" ", "_"): value}
            for folder, outcome in runs.items()
            for name, value in of_classes(outcome.result or {}).items()
        ])  # fmt: skip
    tables = {folder: _tables(folder, outcome) for folder, outcome in runs.items()}
    sentences = [*map(_finding, runs.values())]
    if form != "html":
        return lead(sentences, form) + in_style(chain(*tables.values()), form)
    from .page import Part, Section, render_page

    sections: dict[Protocol | Section, list[Part]] = {}
    if len(runs) > 1:
        sections[Section("runs", "All runs")] = [Part("", [_overview(runs)], {})]
    titles = [_where(outcome) for outcome in runs.values()]
    for i, (folder, of_run) in enumerate(zip(runs, drawn, strict=True)):
        title = titles[i] if titles.count(titles[i]) == 1 else f"{titles[i]}: {folder}"
        metrics = [key for key in METRICS if results[folder].get(key) is not None]
        tables[folder][0].caption += explain(metrics)
        sections[Section(f"run{i}", printable(title))] = [Part("", tables[folder], of_run)]
    title = titles[0] if len(runs) == 1 else f"{len(runs)} runs"
    return render_page(title, sections, results.values(), sentences)


def _finding(outcome: Outcome) -> str:
    """Return a sentence on the accuracy of a run, its interval and chance."""
    record = outcome.result or {}
    cell = _main(outcome)
    if outcome.metric == "map":
        guessed = f"guessing has about {record.get('positive_share', 0):.1f}%"
        return f"{_where(outcome)}: mAP is {cell.text} of {record['num_test']:,} images; {guessed}."
    images = f"{cell.images:,} images" if cell.images else "images"
    text = f"{_where(outcome)}: {cell.text}% of {images} are right"
    text += f" {interval(cell)}".rstrip()
    zero_shot, number = record.get("zero_shot_accuracy"), record.get("num_classes")
    text += "" if zero_shot is None else f"; zero-shot CLIP has {zero_shot:.2f}"
    return f"{text}; chance is {100 / number:.1f}%." if number else f"{text}."


def _main(outcome: Outcome) -> Cell:
    """Return the main metric of a run, with its interval or what that needs."""
    record = outcome.result or {}
    if outcome.metric == "map":
        text = f"{outcome.number:.2f}"
        with suppress(UserError):  # of too few images there is none
            label, logit = (arrays_of(outcome)[name] for name in ("label", "logit"))
            low, high = mean_interval(label, logit)
            text += f" [{100 * low:.1f}, {100 * high:.1f}]"
        return Cell(text, outcome.number)
    images = None if record.get("tasks") else int(record.get("num_test") or 0) or None
    return Cell(f"{record['accuracy']:.2f}", record["accuracy"], images=images)


def read_run(folder: Path) -> Outcome:
    """Return a single run, as one of `few_shot`; raises UserError if its record cannot be used."""
    try:
        record = read_record(folder) or {}
    except BadResult as error:
        raise UserError(f"{error}: repeat the run") from None
    run = Run(
        FEW_SHOT, "all", str(record.get("trainer")), name_in(folder, record), "",
        record.get("seed") or 0, record.get("shots") or 0,
        str(record.get("subsample_classes")), folder,
    )  # fmt: skip
    return Outcome(run, record)


def _where(outcome: Outcome) -> str:
    run = outcome.run
    return printable(f"{run.trainer} on {run.dataset}{half_text(run)}, seed {run.seed}")


def half_text(run: Run) -> str:
    """Return what follows the data set of a run on half of the classes; empty for all."""
    return f", {run.subsample} classes" if run.subsample in ("base", "new") else ""


def _tables(folder: Path, outcome: Outcome) -> list[Table]:
    record = outcome.result or {}
    lines = [
        (metric.head, metric.text(record[key]))
        for key, metric in METRICS.items()
        if record.get(key) is not None
    ]
    facts = {
        "Method": record.get("trainer"),
        "Data set": record.get("dataset") and outcome.run.dataset,
        "Classes": record.get("num_classes"),
        "Classes without a positive": record.get("classes_without_positives") or None,
        "Half of the classes": outcome.run.subsample if half_text(outcome.run) else None,
        "Shots": _shots(record),
        "Training images": ", ".join(setting_texts(image_changes(outcome) or ())) or None,
        "Initial weights": _start(outcome),
        "Attack": dict(attacks(outcome)).get(ATTACK),
        "Attack in training": dict(attacks(outcome)).get(TRAINED),
        "Seed": record.get("seed"),
        "Other code than the present": ", ".join(other_code(record)) or None,
        "Set but not read": ", ".join(record.get("unread") or ()) or None,
        "Backbone": record.get("backbone"),
        "Teacher": earlier_text(outcome, "teacher"),
        "Images tested on": record.get("num_test"),
        "Split": record.get("split"),
        "Stream": (record.get("stream") or {}).get("name"),
        "Temperature": _temperature(record.get("temperature")),
    }
    spent = {key: value for key, value in costs(record).items() if value is not None}
    facts |= {COSTS[key].head: COSTS[key].text(value) for key, value in spent.items()}
    lines += [
        (name, f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in facts.items()
        if value is not None
    ]
    cells = [[Cell(text) for text in line] for line in lines]
    cells[0][1] = _main(outcome)
    tables = [Table(f"The run in '{folder}'", ["", ""], cells, [])]
    if classes := of_classes(record):
        what = measured(outcome.metric)
        head = f"{what.capitalize()} (%)"
        numbers = pd.DataFrame({head: classes}, dtype=float).sort_values(head, kind="stable")
        title = f"{_where(outcome)}: {what} of each class, the least first"
        tables.append(class_table(title, numbers, images_of_classes(outcome)))
    return tables


def _start(outcome: Outcome) -> str | None:
    path = value_of(outcome.result, f"MODEL.{INIT}")
    text = earlier_text(outcome, "start")
    return path and f"{path} ({text})" if text else path or None


def _shots(record: dict) -> str | None:
    number, counts = record.get("shots"), record.get("training_images")
    if number is None:
        return None
    text = "all training images" if number < 1 else str(number)
    if counts and counts["least"] != number:
        text += f" ({counts['least']:.0f} to {counts['most']:.0f} images of a class)"
    return text


def _temperature(value: float | None) -> str | None:
    if value is None:
        return None
    limit = ", at its bound: logits cannot be scaled further" if at_bound(value) else ""
    return f"{value:.{2 if value >= 1 else 3}f}{limit}"
