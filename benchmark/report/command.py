"""Make tables, plots and a page from the runs in output folders and log.txt files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.prompting.errors import UserError

from ..cli import Parser, each, seed, write_output
from ..protocols import PROTOCOLS
from ..protocols.base import Protocol
from ..protocols.places import outputs_below
from ..records import Outcome, from_folder
from . import logs
from .compare import RESAMPLE, Comparisons
from .joint import MEASURES
from .metrics import Classes, Metrics
from .render import FORMATS, as_csv, in_style, render
from .rows import rows
from .single import is_run, overview, runs_below, single_runs
from .tables import seeds_text

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("on", "off", "all")

View = Comparisons | Metrics | Classes  # shown in place of the usual tables


def on_disk(output: Path, protocol: Protocol) -> list[Outcome]:
    """Return the outcomes of all runs of a protocol in an output folder."""
    return [from_folder(run) for run in protocol.on_disk(output)]


def found_in(outputs: Sequence[Path], protocols: Sequence[Protocol]) -> list[Outcome]:
    """Return the outcomes of the runs in these folders, or their nearest subfolders with runs.

    With several folders, each outcome names its origin.

    Raises:
        UserError: one of several folders does not exist, or one is a file.
    """
    if files := [output for output in outputs if output.is_file()]:
        raise UserError(f"'{files[0]}' is a file: unpack it, and name the folder")
    gone = [output for output in outputs if not output.exists()]
    if gone and len(outputs) > 1:
        raise UserError(f"'{gone[0]}' does not exist: check the path")
    outputs = [output for given in outputs for output in outputs_below(given)]
    found: list[Outcome] = []
    for output in outputs:
        outcomes = [outcome for protocol in protocols for outcome in on_disk(output, protocol)]
        if len(outputs) > 1:
            alone = output.name and [other.name for other in outputs].count(output.name) == 1
            origin = output.name if alone else str(output)
            outcomes = [replace(outcome, origin=origin) for outcome in outcomes]
        found += outcomes
    return found


def formatted_view(view: View, form: str, rows: pd.DataFrame) -> str:
    """Return the tables or records of a view as text, in one of FORMATS."""
    if form == "json":
        return json.dumps({type(view).__name__.lower(): view.records()}, indent=2)
    if form == "csv":
        return as_csv(view.records())
    if form == "html":
        from .page import page_of

        return page_of(view.tables(), {}, rows)
    return in_style(view.tables(), form)


def build_parser() -> Parser:
    """Return the parser of `report`."""
    parser = Parser(prog="python -m benchmark report", description=__doc__)
    add = parser.add_argument
    add(
        "outputs", type=Path, nargs="*", default=[Path("output")], metavar="OUTPUT",
        help="folders that contain runs of protocols (subfolders are searched), or folders of "
        "single runs, which are shown with the accuracy of each class (default: output)",
    )  # fmt: skip
    add("--format", choices=FORMATS, default="text", help="output format (default: %(default)s)")
    add(
        "--protocol", choices=PROTOCOLS, action="append", dest="protocols",
        help="report only this protocol; may be repeated (default: all)",
    )  # fmt: skip
    add("--seeds", type=each(seed), help="report only runs with these seeds (default: all)")
    add("--interval", action="store_true", help="95%% intervals in place of standard deviations")
    add(
        "--deviations", action="store_true",
        help="with --format latex: standard deviations (or, with --interval, intervals) after the "
        "means",
    )  # fmt: skip
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--compare", metavar="METHOD",
        help="instead of the tables, show the differences between this method and every other, "
        "paired by test image, with 95%% intervals and p-values",
    )  # fmt: skip
    instead.add_argument(
        "--metrics", action="store_true",
        help="instead of the tables, show more metrics: top-5 accuracy, calibration error, "
        "likelihood, metrics over base and new classes together, and costs; --plots draws "
        "reliability diagrams",
    )  # fmt: skip
    instead.add_argument(
        "--classes", action="store_true",
        help="instead of the tables, show the accuracy of each class; --plots draws confusion "
        "matrices",
    )  # fmt: skip
    add(
        "--resample", choices=RESAMPLE, default="images",
        help="units that --compare resamples besides seeds: test images (for the embedded data "
        "sets: motifs, in all of them at once) or whole classes (default: %(default)s)",
    )  # fmt: skip
    add(
        "--metric", choices=MEASURES, default="accuracy",
        help="metric that --compare uses; all but accuracy are over base and new classes together "
        "(default: %(default)s)",
    )  # fmt: skip
    add(
        "--published", choices=PUBLISHED, default="on",
        help="published numbers next to yours, where the setting is the same: off, on, or all "
        "(also of methods that you did not run) (default: %(default)s)",
    )  # fmt: skip
    add("--plots", type=Path, metavar="DIR", help="also write plots to DIR, as pdf, png and svg")
    add(
        "--logs", action="append", default=[], metavar="[NAME=]FOLDER",
        help="also read the log.txt files of CoOp, MaPLe and similar repositories below FOLDER; "
        "NAME is the method's name in the tables; may be repeated",
    )  # fmt: skip
    return parser


def main(argv: list[str]) -> None:
    """Run `python -m benchmark report OUTPUT ...`."""
    args = build_parser().parse_args(argv)
    if args.metric != "accuracy" and not args.compare:
        raise UserError(f"--metric {args.metric} needs --compare METHOD: name a method to compare")
    if args.deviations and args.format != "latex":
        raise UserError(
            "--deviations needs --format latex: the other formats always show deviations"
        )
    protocols = [PROTOCOLS[name] for name in args.protocols or PROTOCOLS]
    outputs = list(dict.fromkeys(args.outputs))
    if single := [output for output in outputs if is_run(output)]:
        if single != outputs or args.compare or args.plots or args.logs:
            raise UserError(
                f"'{single[0]}' is a single run: report it without other folders, --compare, "
                "--plots or --logs"
            )
        print(single_runs(single, args.format))
        return
    outcomes = found_in(outputs, protocols)
    read, unknown = logs.read(args.logs)
    outcomes += [outcome for outcome in read if outcome.run.protocol in protocols]
    if args.seeds:
        outcomes = [outcome for outcome in outcomes if outcome.run.seed in args.seeds]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        print(
            f"skipped logs whose folder name does not identify the run: {unknown[0]}{more}",
            file=sys.stderr,
        )
    listed = rows(outcomes, args.interval, args.published != "off")
    if listed.empty:
        if not args.protocols and not args.seeds and not args.logs:
            alone = [run for output in outputs for run in runs_below(output)]
            if alone:
                print(overview(alone, args.format))
                return
        if not args.outputs[0].exists():
            raise UserError(f"'{args.outputs[0]}' does not exist: check the path")
        what = " or ".join(args.protocols or ["any protocol"])
        if args.seeds:
            what += f" with {seeds_text(args.seeds)}"
        where = " or ".join(f"'{output}'" for output in args.outputs)
        raise UserError(
            f"no runs of {what} in {where}: run one first, for example `python -m benchmark "
            "base2new`, or name the folder of a single run"
        )
    view: View | None = None
    if args.compare:
        view = Comparisons(listed, args.compare, args.resample, args.metric)
    elif args.metrics or args.classes:
        view = Metrics(listed) if args.metrics else Classes(listed)
    if args.plots:
        draw(listed, view, args.plots)
    if view:
        print(formatted_view(view, args.format, listed))
    else:
        print(render(listed, args.format, args.published == "all", args.deviations))


def end_in_table(protocol: Protocol, engine: Any, output: Path) -> int:
    """Print the table of a launcher's runs, save that of all runs, and return the exit code.

    Args:
        protocol: the protocol.
        engine: a `benchmark.launch.engine.Engine`, with an outcome for each of its runs.
        output: the output folder.

    Raises:
        UserError: the file cannot be written.
    """
    outcomes = [engine.outcomes[run] for run in engine.runs]
    print(render(rows(outcomes), "text"))
    keep_table(protocol, output)
    return int(any(outcome.problem for outcome in outcomes))


def keep_table(protocol: Protocol, output: Path) -> None:
    """Save the table of all runs of a protocol in the output folder, and print its path.

    Raises:
        UserError: the file cannot be written.
    """
    path = output / protocol.name / "table.json"
    write_output(path, render(rows(on_disk(output, protocol)), "json") + "\n")
    print(
        f"The table shows the runs of this command; {path} has all runs of {protocol.name} in "
        f"{output}",
        file=sys.stderr,
    )


def draw(rows: pd.DataFrame, view: View | None, folder: Path) -> None:
    """Write the plots that belong to the tables into a folder, and print their paths."""
    from . import pictures, plots  # matplotlib is slow to load

    if isinstance(view, Metrics | Classes):
        drawn = pictures.figures(view.tests, view.picture)
    else:
        drawn = plots.figures(rows)
    if not drawn:
        shown = "runs with predictions" if view else "means of finished runs"
        print(f"no plots: there are no {shown}", file=sys.stderr)
    for name, (figure, _) in drawn.items():
        for form in plots.FORMATS:
            path = folder / f"{name}.{form}"
            write_output(path, plots.encoded(figure, form))
            print(path, file=sys.stderr)
