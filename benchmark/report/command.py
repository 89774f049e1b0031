"""Tables, plots and a page of all runs in output folders and packs, and of log.txt files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.prompting.errors import UserError

from ..cli import Parser, each, seed, write_output
from ..protocols import PROTOCOLS
from ..protocols.base import Protocol
from ..protocols.places import outputs_below
from . import logs
from .compare import RESAMPLE, Comparisons
from .joint import MEASURES
from .metrics import Classes, Metrics
from .packs import Pack
from .render import FORMATS, as_csv, in_style, render
from .results import Outcome, from_folder
from .single import is_run, overview, runs_below, single_runs
from .tables import seeds_text

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("on", "off", "all")

View = Comparisons | Metrics | Classes  # what is shown in place of the usual tables


def on_disk(output: Path, protocol: Protocol) -> list[Outcome]:
    """What became of the runs of a protocol in an output folder, whoever started them."""
    return [from_folder(run) for run in protocol.on_disk(output)]


def found_in(outputs: Sequence[Path], protocols: Sequence[Protocol]) -> list[Outcome]:
    """The outcomes of the runs in packs and folders, or in the nearest subfolders that have any.

    If there are several places, the outcomes say where they are from.

    Raises:
        UserError: one of several is not there, or a pack is refused.
    """
    if len(outputs) > 1 and (gone := [output for output in outputs if not output.exists()]):
        raise UserError(f"there is no folder and no pack '{gone[0]}'")
    outputs = [
        output
        for given in outputs
        for output in ([given] if given.is_file() else outputs_below(given))
    ]
    found: list[Outcome] = []
    for output in outputs:
        if output.is_file():
            outcomes = Pack(output).outcomes(protocols)
        else:
            outcomes = [outcome for protocol in protocols for outcome in on_disk(output, protocol)]
        if len(outputs) > 1:
            alone = output.name and [other.name for other in outputs].count(output.name) == 1
            origin = output.name if alone else str(output)
            outcomes = [replace(outcome, origin=origin) for outcome in outcomes]
        found += outcomes
    return found


def formatted_view(view: View, form: str, rows: pd.DataFrame) -> str:
    """The tables or records of a view of these rows, in one of FORMATS."""
    if form == "json":
        return json.dumps({type(view).__name__.lower(): view.records()}, indent=2)
    if form == "csv":
        return as_csv(view.records())
    if form == "html":
        from .page import page_of

        return page_of(view.tables(), {}, rows)
    return in_style(view.tables(), form)


def build_parser() -> Parser:
    """The parser of `report`."""
    parser = Parser(prog="python -m benchmark report", description=__doc__)
    add = parser.add_argument
    add(
        "outputs", type=Path, nargs="*", default=[Path("output")], metavar="OUTPUT",
        help="folders with runs of protocols in them or in subfolders, packs, or the folders of "
        "single runs, which are shown with their classes (default: output)",
    )  # fmt: skip
    add("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    add(
        "--protocol", choices=PROTOCOLS, action="append", dest="protocols",
        help="only this one; may be given several times (default: all)",
    )  # fmt: skip
    add("--seeds", type=each(seed), help="only runs with these (default: all that were run)")
    add("--interval", action="store_true", help="95%% intervals in place of standard deviations")
    add(
        "--deviations", action="store_true",
        help="of LaTeX: standard deviations (with --interval: intervals) after the means",
    )  # fmt: skip
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--compare", metavar="METHOD",
        help="in place of the tables, the difference of this method to every other, paired by test "
        "image, with a 95%% interval and p",
    )  # fmt: skip
    instead.add_argument(
        "--metrics", action="store_true",
        help="in place of the tables, also top-5, calibration error and likelihood, what is over "
        "base and new classes together, and costs; the plots are reliability diagrams",
    )  # fmt: skip
    instead.add_argument(
        "--classes", action="store_true",
        help="in place of the tables, the accuracy of each class; the plots are confusion matrices",
    )  # fmt: skip
    add(
        "--resample", choices=RESAMPLE, default="images",
        help="what --compare resamples besides seeds: test images (of the embedded data sets "
        "motifs, in all of them at once) or whole classes (default: %(default)s)",
    )  # fmt: skip
    add(
        "--metric", choices=MEASURES, default="accuracy",
        help="what --compare compares; all but accuracy are over base and new classes together "
        "(default: %(default)s)",
    )  # fmt: skip
    add(
        "--published", choices=PUBLISHED, default="on",
        help="published numbers beside those that were computed in the same setting: off, on, or "
        "all, with the methods that were not run (default: %(default)s)",
    )  # fmt: skip
    add("--plots", type=Path, metavar="DIR", help="also write plots there, as pdf, png and svg")
    add(
        "--logs", action="append", default=[], metavar="[NAME=]FOLDER",
        help="add the log.txt files of CoOp, MaPLe and the like below this folder, NAME being the "
        "method in the tables; may be given several times",
    )  # fmt: skip
    return parser


def main(argv: list[str]) -> None:
    """`python -m benchmark report OUTPUT ...`."""
    args = build_parser().parse_args(argv)
    if args.metric != "accuracy" and not args.compare:
        raise UserError(f"--metric {args.metric} goes with --compare METHOD, which names a method")
    if args.deviations and args.format != "latex":
        raise UserError("--deviations goes with --format latex: other formats have them anyway")
    protocols = [PROTOCOLS[name] for name in args.protocols or PROTOCOLS]
    outputs = list(dict.fromkeys(args.outputs))
    if single := [output for output in outputs if is_run(output)]:
        if single != outputs or args.compare or args.plots or args.logs:
            raise UserError(
                f"'{single[0]}' is a single run: report it without other folders, --compare, "
                "--plots and --logs"
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
        print(f"logs whose folder does not tell the run: {unknown[0]}{more}", file=sys.stderr)
    from .rows import rows  # pandas is slow to load

    listed = rows(outcomes, args.interval, args.published != "off")
    if listed.empty:
        if not args.protocols and not args.seeds and not args.logs:
            alone = [run for output in outputs if output.is_dir() for run in runs_below(output)]
            if alone:
                print(overview(alone, args.format))
                return
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


def draw(rows: pd.DataFrame, view: View | None, folder: Path) -> None:
    """Write the plots of what is shown into a folder, and say which."""
    from . import pictures, plots  # matplotlib is slow to load

    if isinstance(view, Metrics | Classes):
        drawn = pictures.figures(view.tests, view.picture)
    else:
        drawn = plots.figures(rows)
    if not drawn:
        shown = "runs with predictions" if view else "means of finished runs"
        print(f"no plots: they show {shown}", file=sys.stderr)
    for name, (figure, _) in drawn.items():
        for form in plots.FORMATS:
            path = folder / f"{name}.{form}"
            write_output(path, plots.encoded(figure, form))
            print(path, file=sys.stderr)
