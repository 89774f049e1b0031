"""Report single runs by their folders: facts, metrics, and the accuracy of each class."""

import json
from pathlib import Path

from trainers.prompting.errors import UserError

from ..protocols.base import listed
from ..protocols.places import DEPTH
from ..records import METRICS, RESULTS, BadResult, read_record
from .names import method_name
from .render import TABLE_STYLES, as_csv, in_style
from .tables import Cell, Table, memory


def is_run(folder: Path) -> bool:
    """Return True for the folder of a finished run."""
    return (folder / RESULTS).is_file()


def runs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the folders of finished runs in a folder and its subfolders, sorted."""
    if is_run(folder):
        return [folder]
    inside = [folder / name for name in sorted(listed(folder)) if not name.startswith(".")]
    if not depth:
        return []
    return [found for path in inside if path.is_dir() for found in runs_below(path, depth - 1)]


def overview(folders: list[Path], form: str) -> str:
    """Return a table with a line for each of these runs; in CSV and JSON, as `single_runs`."""
    if form not in TABLE_STYLES:
        return single_runs(folders, form)
    head = ["Run", "Method", "Data set", "Shots", "Seed", "Accuracy (%)"]
    lines = []
    for folder in folders:
        record = _record(folder)
        facts = [record.get("trainer"), record.get("dataset"), record.get("shots")]
        facts += [record.get("seed"), f"{record['accuracy']:.2f}"]
        lines.append((str(folder), *("-" if fact is None else str(fact) for fact in facts)))
    note = "`report RUN` shows one with its classes."
    return in_style({None: [Table("Single runs", head, _cells(lines), [note])]}, form)


def single_runs(folders: list[Path], form: str) -> str:
    """Return the tables of finished runs, or in CSV and JSON their records.

    Raises:
        UserError: a record cannot be used, or the format is html.
    """
    records = {folder: _record(folder) for folder in folders}
    if form == "json":
        return json.dumps([{"folder": str(f), **record} for f, record in records.items()], indent=2)
    if form == "csv":
        return as_csv([
            {"folder": str(folder), "class": name, "accuracy": accuracy}
            for folder, record in records.items()
            for name, accuracy in (record.get("per_class_accuracy") or {}).items()
        ])  # fmt: skip
    if form == "html":
        raise UserError(
            "--format html works for runs of protocols only: choose another format for single runs"
        )
    return in_style({folder: _tables(folder, record) for folder, record in records.items()}, form)


def _record(folder: Path) -> dict:
    try:
        return read_record(folder) or {}
    except BadResult as error:
        raise UserError(f"{error}: repeat the run") from None


def _tables(folder: Path, record: dict) -> list[Table]:
    lines: list[tuple[str, ...]] = [
        (metric.head, f"{record[key]:.2f}")
        for key, metric in METRICS.items()
        if record.get(key) is not None
    ]
    facts = {
        "Method": record.get("trainer") and method_name(str(record["trainer"])),
        "Data set": record.get("dataset"),
        "Classes": record.get("num_classes"),
        "Half of the classes": {"base": "base", "new": "new"}.get(
            str(record.get("subsample_classes"))
        ),
        "Shots": _shots(record.get("shots")),
        "Seed": record.get("seed"),
        "Backbone": record.get("backbone"),
        "Images tested on": record.get("num_test"),
        "Split": record.get("split"),
        "Trained parameters": record.get("num_params"),
        "Training (s)": record.get("train_seconds"),
        "Peak memory": memory(record.get("peak_memory_mib")),
    }
    lines += [(name, _text(value)) for name, value in facts.items() if value is not None]
    found = [Table(f"The run in '{folder}'", ["", ""], _cells(lines), [])]
    if classes := record.get("per_class_accuracy"):
        least = sorted(classes.items(), key=lambda item: (item[1] is None, item[1] or 0))
        lines = [(name, "-" if value is None else f"{value:.2f}") for name, value in least]
        head = ["Class", "Accuracy (%)"]
        found.append(Table("Accuracy of each class, the least first", head, _cells(lines), []))
    return found


def _cells(lines: list[tuple[str, ...]]) -> list[list[Cell]]:
    return [[Cell(text) for text in line] for line in lines]


def _shots(number: object) -> object:
    return "all training images" if isinstance(number, int) and number < 1 else number


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
