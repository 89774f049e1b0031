"""Make tables, plots and a page from the runs in output folders and log.txt files."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import pandas as pd

from trainers.prompting.errors import UserError, need

from ..cli import Parser, each, seed, write_output
from ..protocols import PROTOCOLS
from ..protocols.base import Protocol
from ..protocols.places import Found, find, is_run, runs_in
from ..records import Outcome, from_folder
from .classes import Classes, tests
from .compare import Comparisons
from .findings import findings
from .frame import frame, main_rows
from .further import further
from .names import seeds_text
from .render import FORMATS, render
from .summary import of_metrics, summarise, usual_rows

PUBLISHED = ("on", "off", "all")

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "which runs": {
        "outputs": {
            "type": Path, "nargs": "*", "default": [Path("output")], "metavar": "OUTPUT",
            "help": "folders that contain runs of protocols (subfolders are searched), or folders "
            "of single runs, which are shown with the accuracy of each class (default: output)",
        },
        "--protocol": {
            "choices": PROTOCOLS, "action": "append", "dest": "protocols",
            "help": "report only this protocol; may be repeated (default: all)",
        },
        "--seeds": {
            "type": each(seed), "help": "report only runs with these seeds (default: all)",
        },
        "--logs": {
            "action": "append", "default": [], "metavar": "[NAME=]FOLDER",
            "help": "also read the log.txt files of CoOp, MaPLe and similar repositories below "
            "FOLDER; NAME is the method's name in the tables; may be repeated",
        },
    },
    "how they are shown": {
        "--format": {
            "choices": FORMATS, "default": "text", "help": "output format (default: %(default)s)",
        },
        "--interval": {
            "action": "store_true", "help": "95%% intervals in place of standard deviations",
        },
        "--published": {
            "choices": PUBLISHED, "default": "on",
            "help": "published numbers next to yours, where the setting is the same: off, on, or "
            "all (also of methods that you did not run) (default: %(default)s)",
        },
        "--plots": {
            "type": Path, "metavar": "DIR", "help": "also write plots to DIR, as pdf, png and svg",
        },
    },
    "more tables": {  # comparisons and classes take the place of the usual ones, but in HTML
        "--compare": {
            "metavar": "METHOD",
            "help": "show the differences between this method (a name in the tables, such as "
            "'ALIGN, BETA 0', or of single runs the folder of one) and every other, paired by test "
            "image, with 95%% intervals and p-values",
        },
        "--metrics": {
            "action": "store_true",
            "help": "show a table of every metric: macro-F1, top-5 accuracy, calibration error, "
            "likelihood, accuracy over base and new classes together; --plots draws reliability "
            "diagrams",
        },
        "--classes": {
            "action": "store_true",
            "help": "show the accuracy of each class; --plots draws confusion matrices",
        },
    },
}  # fmt: skip


def build_parser() -> Parser:
    """Return the parser of `report`."""
    parser = Parser(prog="python -m benchmark report", description=__doc__)
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **settings)
    return parser


def main(argv: list[str]) -> None:
    """Run `python -m benchmark report OUTPUT ...`."""
    args = build_parser().parse_args(argv)
    asked = {"--compare": args.compare, "--metrics": args.metrics, "--classes": args.classes}
    flags = list(compress(asked, asked.values()))
    need(
        len(flags) < 2 or args.format != "csv",
        f"--format csv takes one of {' and '.join(flags)}, as their columns differ: make a file of "
        "each",
    )
    show(args, list(dict.fromkeys(args.outputs)))


def show(args: argparse.Namespace, outputs: list[Path]) -> None:
    """Print what the arguments ask for, of runs in these folders."""
    single = [output for output in outputs if is_run(output)]
    need(
        not single or (single == outputs and not args.logs),
        f"'{single and single[0]}' is a single run: leave out outputs of protocols and --logs",
    )
    if single and not args.compare:
        from .single import report_runs

        print(report_runs(single, args.format, args.plots))
        return
    found = {} if single else {output: find(output) for output in outputs}
    outcomes = side_by_side(single) if single else choose_outcomes(args, found)
    tidy = frame(outcomes)
    if tidy.empty:
        print(nothing(args, found))
        return
    for name, outcome in zip(tidy["name"], tidy["outcome"], strict=True):
        if single and outcome.run.folder == Path(args.compare):
            args.compare = name
    for note in dict.fromkeys(note for of_folder in found.values() for note in of_folder.notes):
        print(note, file=sys.stderr)
    scores = further(tidy) if args.metrics else None
    numbers = summarise(tidy, args.interval, args.published != "off", scores)
    rows = of_metrics(numbers) if args.metrics else usual_rows(numbers)
    views: list[Comparisons | Classes] = []
    if args.compare:
        views.append(Comparisons(tidy, main_rows(numbers), args.compare))
    views += [Classes(tidy, numbers)] if args.classes else []
    if args.plots:
        write_plots(args, tidy, numbers)
    usual = args.metrics or not views or args.format == "html"
    first = findings(tidy, numbers) if usual and args.format != "csv" else []
    if args.format == "html":
        from .page import page_of  # with matplotlib, which is slow to load

        print(page_of(tidy, rows, views, args.published == "all", first))
    else:
        shown = rows if usual else None
        print(render(shown, args.format, args.published == "all", first, views))


def side_by_side(folders: list[Path]) -> list[Outcome]:
    """Return the outcomes of single runs, named by their folders where a method has several."""
    from .single import half_text, read_run

    outcomes = []
    for outcome in map(read_run, folders):
        run, half = outcome.run, half_text(outcome.run)
        outcomes.append(replace(outcome, run=replace(run, dataset=f"{run.dataset}{half}")))
    trainers = [outcome.run.trainer for outcome in outcomes]
    around = os.path.commonpath([folder.absolute() for folder in folders])
    return [
        replace(x, origin=os.path.relpath(x.run.folder, around))
        if trainers.count(x.run.trainer) > 1
        else x
        for x in outcomes
    ]


def choose_outcomes(args: argparse.Namespace, found: dict[Path, Found]) -> list[Outcome]:
    """Return the outcomes of the runs and logs that the arguments name.

    Runs are those found in the folders given. Where they are of several outputs, each outcome names
    its origin.
    """
    for output in found:
        logs_alone = args.logs and len(found) == 1
        need(logs_alone or output.is_dir(), f"'{output}' is not a folder: check the path")
    protocols = [PROTOCOLS[name] for name in args.protocols or PROTOCOLS]
    runs = [pair for of_folder in found.values() for pair in of_folder.runs.items()]
    names = [folder.name for folder, _ in runs]
    outcomes = []
    for folder, of_output in runs:
        in_folder = [from_folder(run) for run in of_output if run.protocol in protocols]
        if len(runs) > 1:
            origin = folder.name if names.count(folder.name) == 1 else ""
            in_folder = [replace(x, origin=origin or str(folder)) for x in in_folder]
        outcomes += in_folder
    if args.logs:
        from . import logs

        logged, unknown = logs.read(args.logs)
        outcomes += [outcome for outcome in logged if outcome.run.protocol in protocols]
        if unknown:
            what = "log folders whose names do not say which run they are of"
            print(f"skipped {len(unknown)} {what}, such as {unknown[0]}", file=sys.stderr)
    return [outcome for outcome in outcomes if not args.seeds or outcome.run.seed in args.seeds]


def nothing(args: argparse.Namespace, found: dict[Path, Found]) -> str:
    """Return an overview of the single runs in these folders, which have no runs of protocols."""
    searched = [] if args.protocols or args.seeds or args.logs else found.values()
    if alone := [run for of_folder in searched for run in of_folder.singles]:
        from .single import overview

        return overview(alone, args.format)
    what = " or ".join(args.protocols or ["any protocol"])
    if args.seeds:
        what += f" with {seeds_text(args.seeds)}"
    where = " or ".join(f"'{output}'" for output in args.outputs)
    raise UserError(
        f"no runs of {what} in {where}: run one first, for example `python -m benchmark "
        f"{(args.protocols or ['base2new'])[0]}`, or name the folder of a single run"
    )


def end_in_table(protocol: Protocol, engine: Any, output: Path) -> int:
    """Print the table of a launcher's runs, save that of all runs, and return the exit code."""
    outcomes = [engine.outcomes[run] for run in engine.runs]
    tidy = frame(outcomes)
    numbers = summarise(tidy)
    table_rows = main_rows(numbers)
    print(render(usual_rows(numbers), "text", sentences=findings(tidy, numbers)))
    varied = tidy[[bool(outcome.run.opts) for outcome in tidy["outcome"]]]
    for _, of_method in varied.groupby("trainer", sort=False):  # the values of --vary
        if not any(outcome.result for outcome in of_method["outcome"]):
            continue
        with contextlib.suppress(UserError):  # a single value has been tried
            in_tables = table_rows[table_rows["line"].isin(of_method["line"])]
            view = Comparisons(of_method, in_tables, of_method["name"].iloc[0])
            print(f"\n{render(None, 'text', views=[view])}")
    keep_table(protocol, output)
    return int(any(outcome.problem for outcome in outcomes))


def keep_table(protocol: Protocol, output: Path) -> None:
    """Save the table of all runs of a protocol, and print its path; raises OSError."""
    path = output / protocol.name / "table.json"
    outcomes = [from_folder(run) for run in runs_in(output) if run.protocol is protocol]
    if not outcomes:  # no folder of a run could be made
        return
    write_output(path, render(usual_rows(summarise(frame(outcomes))), "json") + "\n")
    print(
        f"The table shows the runs of this command; {path} has all runs of {protocol.name} in "
        f"{output}",
        file=sys.stderr,
    )


def write_plots(args: argparse.Namespace, tidy: pd.DataFrame, numbers: pd.DataFrame) -> None:
    """Write the plots that belong to the tables into a folder, and print their paths."""
    from . import pictures, plots  # matplotlib is slow to load

    kinds = ["reliability"] * args.metrics + ["confusion"] * args.classes
    drawing = {} if kinds and not args.compare else plots.figures(main_rows(numbers))
    drawing |= pictures.figures(tests(tidy, numbers) if kinds else [], kinds)
    if not drawing:
        shown = "runs with predictions" if kinds else "means of finished runs"
        print(f"no plots: there are no {shown}", file=sys.stderr)
    plots.write_figures(drawing, args.plots)
