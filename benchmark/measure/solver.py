"""Time the transport solver against `ot.solve_batch` of POT, on problems of ALIGN's shapes.

Even costs are those between random features. Peaked costs have each token close to one token of the
other side, and need many iterations.
"""

import sys
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import ot
import torch
import torch.nn.functional as F

from trainers.prompting.method import find_method
from trainers.prompting.transport.solver import Sinkhorn

from ..cli import Parser, from_one
from ..report.table import Cell, Table
from .counting import seconds
from .speed import FORMATS, add_measuring, save
from .speed_tables import number, spread

ALIGN: Any = find_method("ALIGN").Settings()
PATCHES, WIDTH = 198, 512  # image tokens of ViT-B/16 with two prompt tokens; width of features
EVEN = (4, 4), (8, 8), (12, 12), (4, 12)  # text tokens: least and most of a class
PEAKED = (8, 8), (4, 12)
MOST = 50  # classes at the token level: POT takes minutes for more, and ratios only grow
# POT's fastest method on each device: "sinkhorn" takes half the time of the default, but has no
# GPU version.
METHOD = {"cpu": "sinkhorn", "cuda": "log_sinkhorn"}
SHORT = 0.1  # seconds; for faster calls a repeat is the median of several
SAME = 1e-5  # largest allowed difference of distances once both solvers have converged


@dataclass(frozen=True)
class Shape:
    """The shape of a batch of problems, at the token level or the prompt level."""

    tokens: bool
    images: int
    classes: int
    lengths: tuple[int, int]
    peaked: bool

    def __str__(self):
        level, rows = ("token", PATCHES) if self.tokens else ("prompt", ALIGN.M)
        columns = "-".join(map(str, sorted(set(self.lengths))))
        costs = "peaked" if self.peaked else "even"
        return f"{level}, {self.images} x {self.classes}, {rows} x {columns}, {costs}"


def shapes(classes: list[int]) -> list[Shape]:
    """List the shapes to measure: token level for 4 images, prompt level for 4 and for 100."""
    cases = []
    for count in classes:
        for peaked, lengths in ((False, EVEN), (True, PEAKED)):
            if count <= MOST:
                cases += [Shape(True, 4, count, tokens, peaked) for tokens in lengths]
            square = ALIGN.N, ALIGN.N
            cases += [Shape(False, images, count, square, peaked) for images in (4, 100)]
    return sorted(cases, key=lambda shape: not shape.tokens)


class Problems:
    """Problems of one shape for both solvers, and the calls that are timed.

    The memory layout is ALIGN's, with patches last; POT is faster with it, too. Texts of different
    lengths are padded with columns of weight 0.
    """

    def __init__(self, shape: Shape, device: str, threads: int):
        torch.set_num_threads(threads)
        self.device, self.tokens, self.method = device, shape.tokens, METHOD[device]
        images, texts, P, (shortest, L) = shape.images, shape.classes, ALIGN.M, shape.lengths
        if shape.tokens:  # one problem for every pair of prompts
            images, texts, P = images * ALIGN.M, texts * ALIGN.N, PATCHES
        r, s = features(images, P, texts, L, shape.peaked)
        cos = (s.flatten(0, 1) @ r.flatten(0, 1).T).view(texts, L, images, P).transpose(1, 2)
        cost = (1 - cos).flatten(0, 1).to(device).mT
        self.cost = cost if shape.tokens else cost.contiguous()
        self.b = None
        if shortest < L:
            lengths = shortest + torch.arange(len(cost))[:, None] % (L - shortest + 1)
            self.b = ((torch.arange(L) < lengths) / lengths).to(device)

    def solve(self, cost, tol=ALIGN.SINKHORN_TOL, max_iter=ALIGN.SINKHORN_MAX_ITER):
        """Solve problems with our solver, which knows as in ALIGN that costs are from 0 to 2."""
        return Sinkhorn(ALIGN.LAMBDA, tol, max_iter, spread=2.0)(cost, None, self.b)

    def ours(self):
        """Compute the result that ALIGN uses: distances (token level) or plans (prompt level)."""
        result = self.solve(self.cost)
        return result.distance if self.tokens else result.plan

    def pot(self):
        """Solve the problems with POT's solver."""
        options = ALIGN.SINKHORN_MAX_ITER, ALIGN.SINKHORN_TOL, self.method
        return ot.solve_batch(self.cost, ALIGN.LAMBDA, None, self.b, *options)

    def ours_gradient(self):
        """Compute the distances and their gradient with respect to the costs."""
        self.solve(self.cost.detach().requires_grad_()).distance.sum().backward()

    def pot_gradient(self):
        """Compute the same gradient, without autograd through POT's iterations."""
        (self.pot().plan * self.cost.detach().requires_grad_()).sum().backward()

    def about(self) -> dict:
        """Return the iterations of both solvers, and the largest L1 error of a marginal."""
        ours, pot = self.solve(self.cost), self.pot()
        rows = pot.plan.sum(2)
        return {
            "problems": len(rows),
            "iterations": ours.iterations.double().mean().item(),
            "most_iterations": ours.iterations.max().item(),
            "pot_iterations": pot.log["n_iter"] + 1,
            "error": ours.marginal_error.max().item(),
            "pot_error": (rows - 1 / rows.shape[1]).abs().sum(1).max().item(),
        }

    def difference(self) -> float:
        """Return the largest difference between our converged distances and POT's in float64.

        POT solves only some of the problems.
        """
        ours = self.solve(self.cost, tol=1e-6, max_iter=1000).distance
        sample = slice(None, None, -(-len(ours) // 64))
        b = None if self.b is None else F.normalize(self.b[sample].double(), p=1)
        cost, options = self.cost[sample].double(), (10_000, 1e-9, "log_sinkhorn")
        pot = ot.solve_batch(cost, ALIGN.LAMBDA, None, b, *options).value_linear
        return (ours[sample] - pot).abs().max().item()


def features(images: int, P: int, texts: int, L: int, peaked: bool):
    """Draw features r (images, P, D) and s (texts, L, D), the same for the same arguments."""
    g = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, WIDTH, generator=g), dim=-1)

    r, s = unit(images, P), unit(texts, L)
    if peaked:  # every token has one of L topics; an image has some topics more often than others
        topics, topic = unit(L), (torch.rand(images, P, generator=g) ** 2 * L).long()
        r, s = (F.normalize(2 * x + y, dim=-1) for x, y in ((topics[topic], r), (topics, s)))
    return r, s


def measure_shape(shape: Shape, device: str, threads: int, repeats: int) -> dict:
    """Measure a shape and return its record; the calls that are compared take turns."""
    problems = Problems(shape, device, threads)
    record = {"name": str(shape), **asdict(shape), **problems.about()}
    record["difference"] = problems.difference()
    works = {"ours": problems.ours, "pot": problems.pot}
    if shape.tokens:
        works |= {"ours_gradient": problems.ours_gradient, "pot_gradient": problems.pot_gradient}
    for work in works.values():
        work()  # the first call is slower
    calls = max(1, int(SHORT / max(seconds(work, device) for work in works.values())))
    medians: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        turns = [[seconds(work, device) for work in works.values()] for _ in range(calls)]
        for name, times in zip(works, zip(*turns, strict=True), strict=True):
            medians[name].append(median(times))
    middle = [median(times) for times in medians.values()]
    ratios = [pot / ours for ours, pot in zip(middle[::2], middle[1::2], strict=True)]
    return record | {"seconds": medians, "ratios": ratios}


def differs(record: dict) -> bool:
    """Return True if the two solvers found different distances."""
    return not record["difference"] <= SAME


# ---------------------------------------------------------------------- table and command line


def milliseconds(record: dict, work: str) -> str:
    """Return the times of a kind of call as a cell, or a dash if it was not timed."""
    times = record["seconds"].get(work)
    return spread([1000 * value for value in times]) if times else "-"


def iterations(record: dict) -> str:
    """Return the iterations of both solvers as a cell."""
    ours = f"{record['iterations']:.1f} (at most {record['most_iterations']})"
    return f"{ours}, {record['pot_iterations']}"


COLUMNS = {
    "Problems": lambda record: f"{record['problems']:,}",
    "Ours (ms)": lambda record: milliseconds(record, "ours"),
    "POT (ms)": lambda record: milliseconds(record, "pot"),
    "Ratio": lambda record: number(record["ratios"][0]),
    "Ours, gradient (ms)": lambda record: milliseconds(record, "ours_gradient"),
    "POT, gradient (ms)": lambda record: milliseconds(record, "pot_gradient"),
    "Ratio, gradient": lambda record: number(*record["ratios"][1:] or [None]),
    "Iterations, POT's": iterations,
    "L1 error, POT's": lambda record: f"{record['error']:.0e}, {record['pot_error']:.0e}",
    "Difference": lambda record: number(record["difference"], ".0e"),
}


def table(args, records: list[dict]) -> Table:
    """Return the table, with a line for each shape."""
    return Table(
        f"Transport solver beside POT {ot.__version__} ({METHOD[args.device]}): {args.device}, "
        f"{args.threads} threads, float32",
        ["Level, images x classes, problem, costs", *COLUMNS],
        [
            [Cell(record["name"]), *(Cell(column(record)) for column in COLUMNS.values())]
            for record in records
        ],
        [
            f"Medians of {args.repeats} repeats (least-greatest), in turn. Ratio: POT's over ours. "
            f"Regularisation {ALIGN.LAMBDA:g}, tolerance {ALIGN.SINKHORN_TOL:g}, at most "
            f"{ALIGN.SINKHORN_MAX_ITER} iterations.",
            "Our solver applies the tolerance to the L1 error of each problem, which stops by "
            "itself; POT applies it to the largest L2 error of all, computed in every tenth "
            "iteration.",
            "Gradient: forward and backward, of the distances with respect to the costs. "
            f"Difference: of the converged distances; at most {SAME:g} is allowed.",
        ],
        [f"{record['name']}: the distances differ" for record in records if differs(record)],
    )


def main(argv: list[str]) -> int:
    """Run `measure solver`; return 1 if the two solvers find different distances."""
    parser = Parser(prog="python -m benchmark measure solver", description=__doc__)
    parser.add_argument(
        "--classes", nargs="+", type=partial(from_one, least=2), default=[10, 50, 150, 1000],
        metavar="NUMBER",
        help=f"numbers of classes; above {MOST} only the prompt level (default: 10 50 150 1000)",
    )  # fmt: skip
    add_measuring(parser, repeats=5)
    args = parser.parse_args(argv)
    records = []
    for shape in shapes(args.classes):
        print(shape, file=sys.stderr, flush=True)
        records.append(measure_shape(shape, args.device, args.threads, args.repeats))
        save(args, records, pot=ot.__version__)
    print(FORMATS[args.format](table(args, records)))
    return int(any(differs(record) for record in records))
