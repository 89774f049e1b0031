"""Measure a piece of a GPU report, or make its page: `python -m tools.gpu PIECE`."""

import re
import time
from functools import partial
from pathlib import Path

import torch

from benchmark.cli import Parser, write_output
from benchmark.measure.case import check_usable, device_name
from trainers.prompting.errors import UserError
from trainers.prompting.running.precision import fix_cublas

from .. import run as run_program
from . import checks, page, public, runs, solvers, steps
from .store import measure

MORE = 3  # exit code of a piece that was stopped and has more to do
ROOT = Path(__file__).resolve().parents[2]


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m tools.gpu", description=__doc__)
    add = parser.add_argument
    add("piece", choices=[*page.PIECES, "page"], help="what to measure; page: make the page")
    add("--output", type=Path, default=Path("output/gpu"), help="folder (default: %(default)s)")
    add("--device", default="cuda", help="cuda (the default), or cpu to try the report")
    add(
        "--minutes", type=float, default=float("inf"), metavar="MINUTES",
        help=f"begin nothing after this time; exit code {MORE} if there is more to do",
    )  # fmt: skip
    add("--all", action="store_true", help="more cases")
    add("--again", action="store_true", help="measure again what had a problem")
    add("--small", action="store_true", help="tiny cases that show that the report works")
    add(
        "--public", type=Path, action="append", default=[], metavar="PATH",
        help="a checkout of published code, whose steps are timed beside ours; may be repeated",
    )  # fmt: skip
    add("--root", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    return parser


def pieces(args, deadline: float) -> dict:
    """Return functions that yield the items of each piece."""
    device, small, more = args.device, args.small, args.all
    whole = partial(whole_run, args, deadline)
    return {
        "check": lambda: checks.items(small),
        "solver": lambda: solvers.items(device, small, more),
        "steps": lambda: steps.items(device, small, more, args.public),
        "resume": lambda: runs.resumed(args.output / "runs" / "resume", small),
        "run": lambda: [("base2new", whole)],
    }


def whole_run(args, deadline: float) -> dict | None:
    """Run or continue the benchmark until the deadline; None if it is not finished."""
    left = min(deadline - time.monotonic(), 10**6)
    output = (args.output / "runs" / "base2new").resolve()
    return runs.run(output, args.root.resolve(), args.small, left)


def write_page(folder: Path, to: Path) -> None:
    """Write the page of the pieces in a folder.

    Raises:
        UserError: the folder has no piece.
    """
    if not (files := page.files_in(folder)):
        raise UserError(f"'{folder}' has no file of a piece: measure one first")
    text = page.page(files)
    name = re.sub(r"[^a-z0-9]+", "_", text.splitlines()[0].lower()).strip("_")
    write_output(to / f"{name}.md", text)
    print(to / f"{name}.md")


def main(argv: list[str]) -> int:
    """Run a piece; return 0 if it is complete, MORE if it was stopped."""
    args = build_parser().parse_args(argv)
    if args.piece == "page":
        write_page(args.output, args.output if args.small else ROOT / "docs" / "gpu")
        return 0
    check_usable(args.device)
    for checkout in args.public:
        public.check_checkout(checkout)
    if not args.minutes > 0:
        raise UserError(f"--minutes is {args.minutes} but must be above 0")
    fix_cublas()
    print(f"{args.piece}: {device_name(args.device)}, PyTorch {torch.__version__}")
    deadline = time.monotonic() + 60 * args.minutes
    items = dict(pieces(args, deadline)[args.piece]())
    path = args.output / f"{args.piece}.json"
    return 0 if measure(path, args.device, items, deadline, args.again) else MORE


if __name__ == "__main__":
    run_program("gpu", main)
