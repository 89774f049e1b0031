"""Tables: from the outcomes of runs, or from the folders of an output alone."""

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from tabulate import tabulate

from .errors import BadInput, Parser
from .protocols import METHODS, base2new_on_disk
from .results import Outcome, from_folder

FORMATS = ("text", "markdown", "latex", "csv", "json")
TABLE_STYLES = {"text": "simple", "markdown": "pipe", "latex": "latex_booktabs"}

CAPTION = (
    "Mean ± sample standard deviation (n - 1) over the seeds.\n"
    "H = 2 Base New / (Base + New), computed for each seed and then averaged."
)
AVERAGE_CAPTION = "Means over the data sets; H is that of the averages, as in the papers."


@dataclass
class Row:
    """One method on one data set.

    `values` holds, for each column (`base`, `new`, `h`), the number of each seed that has one;
    `seeds` are those that any method of the same table was run with.
    """

    dataset: str
    shots: int
    trainer: str
    config: str
    seeds: list[int]
    method: str = ""
    values: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    num_params: int | None = None
    train_seconds: list[float] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)

    def mean(self, column: str) -> float | None:
        """The mean over the seeds."""
        values = self.values[column].values()
        return mean(values) if values else None

    def std(self, column: str) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        values = self.values[column].values()
        return stdev(values) if len(values) > 1 else None

    def cell(self, column: str) -> str:
        """`mean ± std`, with the number of seeds when some are missing; or what went wrong."""
        values = self.values[column]
        if not values:
            problems = self.problems[column]
            return problems[0].partition(":")[0] if problems else "-"
        std = self.std(column)
        text = f"{self.mean(column):.2f}" + (f" ± {std:.2f}" if std is not None else "")
        missing = len(values) < len(self.seeds)
        return f"{text} ({len(values)} of {len(self.seeds)})" if missing else text


def harmonic(base: float, new: float) -> float:
    """H, the harmonic mean of the accuracies on base and new classes."""
    return 2 * base * new / (base + new) if base + new else 0.0


def base2new_rows(outcomes: list[Outcome]) -> list[Row]:
    """A row for each data set, number of shots, method and config, in the order of a table."""
    seeds, configs, rows = defaultdict(set), defaultdict(set), {}
    for outcome in outcomes:
        run = outcome.run
        seeds[run.dataset, run.shots].add(run.seed)
        configs[run.dataset, run.shots, run.trainer].add(run.config)
    for outcome in outcomes:
        run, result = outcome.run, outcome.result
        key = (run.dataset, run.shots, run.trainer, run.config)
        if key not in rows:
            rows[key] = Row(*key, seeds=sorted(seeds[run.dataset, run.shots]), method=run.trainer)
            if len(configs[key[:3]]) > 1:
                rows[key].method += f" ({run.config})"
        row = rows[key]
        if result is None:
            row.problems[run.part].append(f"{outcome.problem} [seed {run.seed}]")
            continue
        row.values[run.part][run.seed] = result["accuracy"]
        row.splits.add(result.get("split") or "test")
        if run.part == "base":
            row.num_params = result.get("num_params")
            row.train_seconds.append(result.get("train_seconds") or 0.0)
    for row in rows.values():
        for seed in row.values["base"].keys() & row.values["new"].keys():
            row.values["h"][seed] = harmonic(row.values["base"][seed], row.values["new"][seed])
    return sorted(rows.values(), key=_order)


def _order(row: Row) -> tuple:
    rank = METHODS.index(row.trainer) if row.trainer in METHODS else len(METHODS)
    return row.dataset, row.shots, rank, row.trainer, row.config


def averages(rows: list[Row]) -> list[dict]:
    """For each method, the means over those of its data sets that have both, and H of these."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.method, row.shots].append(row)
    lines = []
    for (method, shots), group in groups.items():
        whole = [row for row in group if row.values["h"]]
        line = {"method": method, "shots": shots, "datasets": len(whole), "of": len(group)}
        if whole:
            line["base"] = mean(row.mean("base") for row in whole)
            line["new"] = mean(row.mean("new") for row in whole)
            line["h"] = harmonic(line["base"], line["new"])
        lines.append(line)
    return lines


def render(rows: list[Row], form: str = "text") -> str:
    """The tables of all data sets, and of their average where there are several."""
    if form == "json":
        several = len({row.dataset for row in rows}) > 1
        tables = {"rows": [as_record(row) for row in rows]}
        return json.dumps(tables | ({"averages": averages(rows)} if several else {}), indent=2)
    if form == "csv":
        return as_csv(rows)
    tables = defaultdict(list)
    for row in rows:
        tables[row.dataset, row.shots].append(row)
    blocks = [_dataset_block(*key, group, form) for key, group in tables.items()]
    for shots in sorted({row.shots for row in rows}):
        group = [row for row in rows if row.shots == shots]
        if len({row.dataset for row in group}) > 1:
            blocks.append(_average_block(shots, group, form))
    return "\n\n".join(blocks)


def _dataset_block(dataset: str, shots: int, rows: list[Row], form: str) -> str:
    head = ["Method", "Base", "New", "H", "Trained parameters", "Training"]
    lines = [
        [
            row.method,
            *(row.cell(column) for column in ("base", "new", "h")),
            "-" if row.num_params is None else f"{row.num_params:,}",
            f"{mean(row.train_seconds):,.0f} s" if row.train_seconds else "-",
        ]
        for row in rows
    ]
    split = " and ".join(sorted(set().union(*(row.splits for row in rows)))) or "test"
    seeds = " ".join(map(str, rows[0].seeds))
    title = (
        f"Base-to-new on {dataset}: accuracy (%) on {split} images, {shots} shots, seeds {seeds}"
    )
    problems = [
        f"{row.method}, {part}: {problem}"
        for row in rows
        for part in ("base", "new")
        for problem in row.problems[part]
    ]
    return _block(title, head, lines, CAPTION, problems, form)


def _average_block(shots: int, rows: list[Row], form: str) -> str:
    lines = [
        [
            line["method"],
            *(f"{line[column]:.2f}" if column in line else "-" for column in ("base", "new", "h")),
            f"{line['datasets']} of {line['of']}",
        ]
        for line in averages(rows)
    ]
    title = f"Base-to-new, average over data sets: accuracy (%), {shots} shots"
    head = ["Method", "Base", "New", "H", "Data sets"]
    return _block(title, head, lines, AVERAGE_CAPTION, [], form)


def _block(title: str, head, lines, caption: str, problems: list[str], form: str) -> str:
    """A title, a table, its caption, and what is missing in it, in one of TABLE_STYLES."""
    align = ["left"] + ["right"] * (len(head) - 1)
    table = tabulate(lines, head, TABLE_STYLES[form], colalign=align, disable_numparse=True)
    notes = ["Not complete:", *(f"- {problem}" for problem in problems)] if problems else []
    if form == "latex":
        below = [f"% {line}" for line in (*caption.split("\n"), *notes)]
        return "\n".join([f"% {title}", table, *below])
    parts = [title, table, caption, "\n\n".join(notes[:1]), "\n".join(notes[1:])]
    if form == "markdown":
        parts[0] = f"**{title}**"
        return "\n\n".join(part for part in parts if part)
    return "\n".join(part for part in parts if part)


def as_record(row: Row) -> dict:
    """A row with plain numbers, for machines."""
    record = {"dataset": row.dataset, "shots": row.shots, "method": row.method}
    record |= {"trainer": row.trainer, "config": row.config}
    record |= {"split": " and ".join(sorted(row.splits)), "seeds": row.seeds}
    for column in ("base", "new", "h"):
        record[f"{column}_mean"] = row.mean(column)
        record[f"{column}_std"] = row.std(column)
        record[f"{column}_n"] = len(row.values[column])
    record["num_params"] = row.num_params
    record["train_seconds"] = mean(row.train_seconds) if row.train_seconds else None
    record["problems"] = [f"{part}: {why}" for part in row.problems for why in row.problems[part]]
    return record


def as_csv(rows: list[Row]) -> str:
    """The records as comma-separated values; lists joined by semicolons."""
    text = io.StringIO()
    records = [as_record(row) for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        for key in ("seeds", "problems"):
            record[key] = "; ".join(map(str, record[key]))
        writer.writerow(record)
    return text.getvalue().rstrip("\n")


def on_disk(output: Path) -> list[Row]:
    """The rows of all base-to-new runs in an output folder."""
    return base2new_rows([from_folder(run) for run in base2new_on_disk(output)])


def main(argv: list[str]) -> None:
    """`python -m benchmark report OUTPUT`."""
    parser = Parser(prog="python -m benchmark report", description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path("output"))
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args(argv)
    rows = on_disk(args.output)
    if not rows:
        raise BadInput(f"no runs in {args.output / 'base2new'}: run `base2new` first")
    print(render(rows, args.format))
