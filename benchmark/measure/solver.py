"""The transport solver beside `ot.solve_batch` of POT, on problems of the shapes that ALIGN has.

Even costs are those between random features. Peaked ones have every token close to one on the
other side, and take many iterations.
"""

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import ot
import torch
import torch.nn.functional as F

from trainers.prompting import sinkhorn
from trainers.prompting.trainer.config import prompt_spec

from ..cli import Parser, write_output
from ..report.tables import Cell, Table
from .case import Subject
from .speed import FORMATS, as_json, check_device, check_sizes
from .speed_tables import number, spread

ALIGN = prompt_spec("ALIGN", {})
PATCHES, WIDTH = 198, 512  # image tokens of ViT-B/16 with two of the prompt; features
EVEN = (4, 4), (8, 8), (12, 12), (4, 12)  # text tokens: the least and the most
PEAKED = (8, 8), (4, 12)
MOST = 50  # classes at the token level: POT takes minutes for more, and ratios only grow
# POT's fastest; its default takes twice as long or more, but the other cannot use a GPU.
METHOD = {"cpu": "sinkhorn", "cuda": "log_sinkhorn"}
SHORT = 0.1  # seconds; of quicker calls a repeat is the median of several
SAME = 1e-5  # the most that distances may differ by once both have converged


@dataclass(frozen=True)
class Case:
    """Problems of one shape, at the level of tokens or of prompts."""

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


def cases(classes: list[int]) -> list[Case]:
    """The token level of four images; the prompt level of four, and of a hundred."""
    found = []
    for count in classes:
        for peaked, lengths in ((False, EVEN), (True, PEAKED)):
            if count <= MOST:
                found += [Case(True, 4, count, some, peaked) for some in lengths]
            square = ALIGN.N, ALIGN.N
            found += [Case(False, images, count, square, peaked) for images in (4, 100)]
    return sorted(found, key=lambda case: -case.tokens)


class Problems(Subject):
    """The problems of a case, the same for both solvers; what each does can be timed.

    They lie as in ALIGN, with patches last in memory, whereby POT is faster, too. Texts of
    different lengths are padded by columns without weight.
    """

    def __init__(self, case: Case, device: str, threads: int):
        super().__init__(device, threads)
        self.tokens, self.method = case.tokens, METHOD[device]
        images, texts, P, (least, L) = case.images, case.classes, ALIGN.M, case.lengths
        if case.tokens:  # of every pair of prompts
            images, texts, P = images * ALIGN.M, texts * ALIGN.N, PATCHES
        r, s = features(images, P, texts, L, case.peaked)
        cos = (s.flatten(0, 1) @ r.flatten(0, 1).T).view(texts, L, images, P).transpose(1, 2)
        cost = (1 - cos).flatten(0, 1).to(device).mT
        self.cost = cost if case.tokens else cost.contiguous()
        self.b = None
        if least < L:
            lengths = least + torch.arange(len(cost))[:, None] % (L - least + 1)
            self.b = ((torch.arange(L) < lengths) / lengths).to(device)

    def solve(self, cost, tol=ALIGN.tol, max_iter=ALIGN.max_iter):
        return sinkhorn(cost, None, self.b, ALIGN.reg, tol, max_iter)

    def ours(self):
        """What ALIGN uses: the distances of the token level, the plans of the prompt level."""
        result = self.solve(self.cost)
        return result.distance if self.tokens else result.plan

    def pot(self):
        how = ALIGN.max_iter, ALIGN.tol, self.method
        return ot.solve_batch(self.cost, ALIGN.reg, None, self.b, *how)

    def ours_gradient(self):
        self.solve(self.cost.detach().requires_grad_()).distance.sum().backward()

    def pot_gradient(self):
        """The same gradient, without autograd through POT's iterations."""
        (self.pot().plan * self.cost.detach().requires_grad_()).sum().backward()

    def about(self) -> dict:
        """Iterations, and the largest L1 error of a problem's marginal that is not exact."""
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
        """The largest between converged distances: ours, and some of POT's in float64."""
        ours = self.solve(self.cost, tol=1e-6, max_iter=1000).distance
        some = slice(None, None, -(-len(ours) // 64))
        b = None if self.b is None else F.normalize(self.b[some].double(), p=1)
        cost, how = self.cost[some].double(), (10_000, 1e-9, "log_sinkhorn")
        pot = ot.solve_batch(cost, ALIGN.reg, None, b, *how).value_linear
        return (ours[some] - pot).abs().max().item()


def features(images: int, P: int, texts: int, L: int, peaked: bool):
    """Random features r (images, P, D) and s (texts, L, D), the same for the same arguments."""
    g = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, WIDTH, generator=g), dim=-1)

    r, s = unit(images, P), unit(texts, L)
    if peaked:  # every token has one of L topics, and an image more of some than of others
        topics, of = unit(L), (torch.rand(images, P, generator=g) ** 2 * L).long()
        r, s = (F.normalize(2 * x + y, dim=-1) for x, y in ((topics[of], r), (topics, s)))
    return r, s


def measure(case: Case, device: str, threads: int, repeats: int) -> dict:
    """The record of a case; what is compared is timed in turn, call by call."""
    problems = Problems(case, device, threads)
    record = {"name": str(case), **asdict(case), **problems.about()}
    record["difference"] = problems.difference()
    works = ["ours", "pot", *["ours_gradient", "pot_gradient"] * case.tokens]
    for work in works:
        problems.timed(work)  # the first is slower
    calls = max(1, int(SHORT / max(problems.timed(work) for work in works)))
    seconds = {work: [] for work in works}
    for _ in range(repeats):
        rounds = [[problems.timed(work) for work in works] for _ in range(calls)]
        for work, found in zip(works, zip(*rounds, strict=True), strict=True):
            seconds[work].append(median(found))
    middle = [median(found) for found in seconds.values()]
    ratios = [pot / ours for ours, pot in zip(middle[::2], middle[1::2], strict=True)]
    return record | {"seconds": seconds, "ratios": ratios}


def differs(record: dict) -> bool:
    return not record["difference"] <= SAME


@contextmanager
def progress(what: Case):
    """Say on stderr what is measured, and every few seconds that it still is."""
    done, started = threading.Event(), time.monotonic()

    def say():
        seconds = ""
        while True:
            print(f"{what}{seconds}", file=sys.stderr, flush=True)
            if done.wait(4):
                return
            seconds = f": {time.monotonic() - started:.0f} s"

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# ---------------------------------------------------------------------- table and command line


def times(record: dict, work: str) -> str:
    seconds = record["seconds"].get(work)
    return spread([1000 * value for value in seconds]) if seconds else "-"


def iterations(record: dict) -> str:
    ours = f"{record['iterations']:.1f} (at most {record['most_iterations']})"
    return f"{ours}, {record['pot_iterations']}"


COLUMNS = {
    "Problems": lambda record: f"{record['problems']:,}",
    "Ours (ms)": lambda record: times(record, "ours"),
    "POT (ms)": lambda record: times(record, "pot"),
    "Ratio": lambda record: number(record["ratios"][0]),
    "Ours, gradient (ms)": lambda record: times(record, "ours_gradient"),
    "POT, gradient (ms)": lambda record: times(record, "pot_gradient"),
    "Ratio, gradient": lambda record: number(*record["ratios"][1:] or [None]),
    "Iterations, POT's": iterations,
    "L1 error, POT's": lambda record: f"{record['error']:.0e}, {record['pot_error']:.0e}",
    "Difference": lambda record: number(record["difference"], ".0e"),
}


def table(args, records: list[dict]) -> Table:
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
            f"Regularisation {ALIGN.reg:g}, tolerance {ALIGN.tol:g}, at most {ALIGN.max_iter} "
            "iterations.",
            "The tolerance is ours for the L1 error of each problem, which stops alone; POT's for "
            "the largest L2 error of all, which it computes in every tenth iteration.",
            "Gradient: forward and backward, of the distances for the costs. Difference: of the "
            f"distances once both have converged; {SAME:g} is allowed.",
        ],
        [f"{record['name']}: the distances differ" for record in records if differs(record)],
    )


def build_parser() -> Parser:
    parser = Parser(prog="python -m benchmark solver", description=__doc__)
    add = parser.add_argument
    add(
        "--classes", nargs="+", type=int, default=[10, 50, 150, 1000], metavar="NUMBER",
        help=f"(default: 10 50 150 1000; beyond {MOST} the prompt level alone)",
    )  # fmt: skip
    add("--device", default="cpu", help="cpu (the default) or cuda")
    add("--threads", type=int, default=2, help="of the CPU (default: 2)")
    add("--repeats", type=int, default=5, help="(default: 5)")
    add("--format", choices=FORMATS, default="text", help="of the table (default: text)")
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    return parser


def main(argv: list[str]) -> int:
    """`python -m benchmark solver`: 1 if the two come to different distances."""
    args = build_parser().parse_args(argv)
    check_sizes(args, "classes", "threads", "repeats")
    check_device(args.device)
    records = []
    for case in cases(args.classes):
        with progress(case):
            records.append(measure(case, args.device, args.threads, args.repeats))
        if args.json:  # after each case: an interruption costs no more than one
            write_output(args.json, as_json(args, records, pot=ot.__version__) + "\n")
    print(FORMATS[args.format](table(args, records)))
    return int(any(differs(record) for record in records))
