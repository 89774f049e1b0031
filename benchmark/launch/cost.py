"""Estimate the cost of the runs of protocols: operations, GPU-hours and memory."""

from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from trainers.prompting.errors import UserError
from trainers.prompting.plugins import load_plugins

from ..cli import Parser
from ..measure.cost import GPUS, Cost, cost, device
from ..protocols import PROTOCOLS
from ..protocols.base import Protocol
from ..report.render import TABLE_STYLES, in_style
from ..report.tables import Cell, Table, memory
from .command import build_parser, parse, planned

HEAD = ["Protocol", "Method", "Runs", "TFLOP", "Hours", "Longest run (h)", "Memory"]


class Line(NamedTuple):
    """A line of the table: the runs of one method in a protocol."""

    protocol: str
    method: str
    costs: list[Cost]

    def cells(self) -> list[Cell]:
        """Return the cells: runs, operations, hours of all and of the longest, memory."""
        seconds = [one.seconds for one in self.costs]
        tflop = sum(one.operations for one in self.costs) / 1e12
        numbers = [
            f"{len(self.costs):,}",
            f"{tflop:,.0f}" if tflop >= 1000 else f"{tflop:.3g}",
            f"{sum(seconds) / 3600:,.2f}",
            f"{max(seconds) / 3600:.2f}",
            memory(max(one.bytes for one in self.costs) / 2**20),
        ]
        return [Cell(text) for text in (self.protocol, self.method, *numbers)]


def main(argv: list[str]) -> None:
    """Run `python -m benchmark cost PROTOCOL ... [DATASET ...]`."""
    parser = Parser(
        prog="python -m benchmark cost",
        description=__doc__,
        usage="%(prog)s PROTOCOL ... [DATASET ...] [options] [KEY VALUE ...]",
        epilog=f"Protocols: {', '.join(PROTOCOLS)}. All options of a protocol may be given, too.",
    )
    parser.add_argument(
        "--gpu", default="h100", metavar="NAME|FILE",
        help=f"the device: {', '.join(GPUS)}, cpu, or a file of scripts/gpu_report.sh "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=list(TABLE_STYLES), default="text", help="(default: %(default)s)"
    )
    args, rest = parser.parse_known_args(argv)
    asked = list(takewhile(PROTOCOLS.__contains__, rest))
    if not asked:
        raise UserError(f"Name one or more protocols first: {', '.join(PROTOCOLS)}")
    on = device(args.gpu)
    lines: list[Line] = []
    seen: set[Path] = set()  # protocols of transfer share their trainings
    for name in dict.fromkeys(asked):
        costs = costs_of(PROTOCOLS[name], rest[len(asked) :], args.gpu, seen)
        lines += [Line(name, method, found) for method, found in costs.items()]
    lines.append(Line("all", "", [one for line in lines for one in line.costs]))
    title = f"Estimated for {on.title}, {on.efficiency:.0%} of the peak rate of its products"
    caption = [
        f"A step takes {1000 * on.step:g} ms at least, a run {on.start:g} s before its first step. "
        "Memory: weights and activations. docs/scaling.md explains the estimates."
    ]
    print(
        in_style(
            {None: [Table(title, HEAD, [line.cells() for line in lines], caption)]}, args.format
        )
    )


def costs_of(
    protocol: Protocol, argv: list[str], gpu: str, seen: set[Path]
) -> dict[str, list[Cost]]:
    """Return the costs of a protocol's runs by method, except runs in the folders `seen`."""
    args = parse(build_parser(protocol), argv)
    load_plugins(args.plugins)
    runs, settings = planned(protocol, args)
    costs = defaultdict(list)
    for run in runs:
        if run.folder not in seen:
            seen.add(run.folder)
            asked = settings.asked(run)
            costs[run.trainer].append(
                cost(run, asked, device(gpu), settings.given_root(run.dataset))
            )
    return costs
