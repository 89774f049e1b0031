"""Time, memory and arithmetic of training and evaluation, beside the machine's own peak.

Random weights of the true size. Every case has a process of its own, and what is compared is
measured in turn.
"""

import json
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from trainers.prompting.errors import UserError, check_name
from trainers.prompting.method import METHODS
from trainers.prompting.trainer.config import prompt_spec

from ..cli import Parser, write_output
from ..report.render import as_markdown, as_text
from .case import Case, Model, OutOfMemory, Product, Worker
from .geometry import GEOMETRY
from .speed_tables import (
    difference,
    differs,
    evaluation_record,
    naive_record,
    ratios,
    tables,
    training_record,
)

PRECISIONS = ("fp32", "amp", "fp16")
# The methods that the naive reference computes.
NAIVE = ("ALIGN", "MaPLe", "CoOp", "KgCoOp", "ProGrad", "PromptSRC", "TCP", "CoPrompt")
PRODUCT = {"cpu": 4096, "cuda": 8192}  # size of the matrix product that shows the peak rate
FORMATS = {"text": as_text, "markdown": as_markdown}


@dataclass
class Contender:
    """One side of a comparison: a case, its process, and what was found.

    `found` holds nothing but `problem` once the case has run out of memory.
    """

    name: str
    case: Case
    repeats: int
    worker: Worker | None = None
    found: dict = field(default_factory=dict)

    def ask(self, key: str, *question: str, say: str = "", again: bool = False):
        """Keep an answer of the worker under this key; `again`: in a list of several."""
        if say:
            self.say(say)
        answer = self.try_(lambda: self.worker.ask(*question))
        if self.worker:
            self.found[key] = [*self.found.get(key, []), answer] if again else answer

    def try_(self, get: Callable):
        """What `get` returns; None without a worker, or when it now runs out of memory."""
        try:
            return get() if self.worker else None
        except OutOfMemory:
            self.worker, self.found = None, {"problem": "out of memory"}
            self.say("out of memory")

    def say(self, what: str):
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)


def start(contenders: list[Contender], stack: ExitStack):
    """Start the processes of all, and wait until they are ready."""
    for one in contenders:
        one.worker = stack.enter_context(Worker(Model, one.case))
    for one in contenders:
        one.try_(one.worker.answer)


def train(contenders: list[Contender], product: Worker) -> dict[str, list[float]]:
    """Time training steps in turn; returns the rates of the product in each precision."""
    ours = [one for one in contenders if not one.case.naive]
    rates = {one.case.precision: [] for one in ours}
    with ExitStack() as stack:
        start(contenders, stack)
        time_steps(contenders, product, rates)
        for one in ours:
            one.ask("necessary", "necessary")
        if ours[0].case.spec.score != "cosine":
            for one in ours:
                one.ask("prepared", "prepare_score", say="scores")
                one.ask("score_operations", "counted", "score")
            for _ in range(ours[0].repeats):
                for one in ours:
                    one.ask("score_seconds", "timed", "score", again=True)
    for one in contenders:
        if one.case.naive and "problem" in one.found:
            one.say("once more, with nothing beside it")
            one.found = {}
            with ExitStack() as stack:
                start([one], stack)
                time_steps([one], product, {})
    return rates


def time_steps(contenders: list[Contender], product: Worker, rates: dict[str, list[float]]):
    """Time the steps of the contenders in turn, and the product before each turn."""
    for one in contenders:
        one.ask("about", "about")
        one.ask("first", "first_step", say="first step")
    for i in range(max(one.repeats for one in contenders)):
        for precision, found in rates.items():
            found.append(product.ask("rate", precision))
        for one in contenders:
            if i < one.repeats:
                say = f"step {i + 1} of {one.repeats}"
                one.ask("seconds", "timed", "step", say=say, again=True)
    for one in contenders:
        one.ask("peak_mib", "peak_memory")  # counting takes more
        one.ask("operations", "counted", "step", say="operations")


def evaluate(contenders: list[Contender]):
    """Time evaluations in turn, and the image encoder alone."""
    ours = [one for one in contenders if not one.case.naive]
    with ExitStack() as stack:
        start(contenders, stack)
        for one in ours:
            if not one.case.spec.image_conditional:
                one.ask("text_seconds", "timed", "encode_text", say="text features")
            one.ask("warm", "timed", "encode_images")
        for one in contenders:
            one.ask("warm", "timed", "evaluate", say="first evaluation")
        for i in range(max(one.repeats for one in contenders)):
            for one in contenders:
                if i < one.repeats:
                    say = f"evaluation {i + 1} of {one.repeats}"
                    one.ask("seconds", "timed", "evaluate", say=say, again=True)
            for one in ours:
                if i < one.repeats:
                    one.ask("encoder_seconds", "timed", "encode_images", again=True)
        for one in contenders:
            one.ask("peak_mib", "peak_memory")


# ---------------------------------------------------------------------- from answers to records


def measure(args, trainer: str, classes: int, product: Worker) -> list[dict]:
    """The records of one method and number of classes, one for each precision.

    The naive reference computes in the first precision.
    """
    spec, naive = prompt_spec(trainer, {}), args.naive and trainer in NAIVE
    case = Case(
        trainer, GEOMETRY[args.backbone], classes, args.batch, args.device, args.precision[0],
        args.threads, args.memory_budget, compile=args.compile,
    )  # fmt: skip

    def contenders(**changes):
        name = f"{trainer}, {classes} classes"
        found = [
            Contender(f"{name}, {p}", replace(case, precision=p, **changes), args.repeats)
            for p in args.precision
        ]
        if naive:
            reference = replace(case, naive=True, **changes)
            name = f"{name}, naive, {case.precision}"
            found.append(Contender(name, reference, args.naive_repeats))
        return found

    training, rates = [], {}
    if spec.M or spec.N:
        training = contenders()
        rates = train(training, product)
    evaluation = contenders(training=False, batch=args.eval_batch)
    evaluate(evaluation)
    records = []
    for i, precision in enumerate(args.precision):
        record = {"trainer": trainer, "classes": classes, "precision": precision}
        if training:
            record["training"] = training_record(training[i].found, rates[precision])
        record["evaluation"] = evaluation_record(evaluation[i].found, args.eval_batch)
        if naive:
            record["naive"] = naive_record(training[-1].found, evaluation[-1].found, args)
            record["naive"]["largest_difference"] = difference(
                training[0].found, training[-1].found
            )
            record["ratios"] = ratios(record)
        records.append(record)
    return records


# ---------------------------------------------------------------------- command line


def build_parser() -> Parser:
    parser = Parser(prog="python -m benchmark speed", description=__doc__)
    add = parser.add_argument
    add("--trainers", nargs="+", default=list(METHODS), metavar="TRAINER", help="(default: all)")
    add("--backbone", default="ViT-B/16", help="(default: %(default)s)")
    add(
        "--classes", nargs="+", type=int, default=[10, 50, 100, 500, 1000], metavar="NUMBER",
        help="(default: 10 50 100 500 1000)",
    )  # fmt: skip
    add("--batch", type=int, default=4, help="images of a training step (default: 4)")
    add("--eval-batch", type=int, default=20, help="images of an evaluation (default: 20)")
    add("--device", default="cpu", help="cpu (the default) or cuda")
    add(
        "--precision", nargs="+", default=["fp32"], metavar="PRECISION",
        help="fp32 (the default), amp or fp16, or several of them",
    )  # fmt: skip
    add("--threads", type=int, default=2, help="of the CPU (default: 2)")
    add("--repeats", type=int, default=3, help="(default: 3)")
    add(
        "--memory-budget", type=float, default=0.0, metavar="GIB",
        help="for the activations of a step, as TRAINER.MEMORY_BUDGET (default: ask the machine)",
    )  # fmt: skip
    add(
        "--compile", action="store_true",
        help="with the blocks compiled, as with TRAINER.COMPILE",
    )  # fmt: skip
    add(
        "--naive", action="store_true",
        help=f"also time a reference in the way of public code ({', '.join(NAIVE)}), in the first "
        "of the precisions: minutes, and tens of GiB from 150 classes on",
    )  # fmt: skip
    add("--naive-repeats", type=int, default=1, help="(default: 1)")
    add("--format", choices=FORMATS, default="text", help="of the tables (default: text)")
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    return parser


def check(args):
    """Raises UserError for what cannot be measured."""
    for trainer in args.trainers:
        check_name("trainer", trainer, METHODS)
    check_name("backbone", args.backbone, GEOMETRY)
    for precision in args.precision:
        check_name("precision", precision, PRECISIONS)
    check_sizes(args, "classes", "batch", "eval_batch", "threads", "repeats", "naive_repeats")
    if not 0 <= args.memory_budget < math.inf:
        raise UserError(f"--memory-budget is {args.memory_budget} but must be GiB, or 0 to ask")
    check_device(args.device)
    if args.device == "cpu" and "fp16" in args.precision:
        raise UserError("--precision fp16 needs --device cuda: on the CPU there are fp32 and amp")


def check_sizes(args, *names: str):
    """Raises UserError if one of these arguments is too small."""
    for name in names:
        value, least = getattr(args, name), 2 if name == "classes" else 1
        smallest = min(value) if isinstance(value, list) else value
        if smallest < least:
            name = name.replace("_", "-")
            raise UserError(f"--{name} is {smallest} but must be at least {least}")


def check_device(device: str):
    check_name("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU that PyTorch can use: give --device cpu")


def main(argv: list[str]) -> int:
    """`python -m benchmark speed`: 1 if the naive reference computes something else."""
    args = build_parser().parse_args(argv)
    check(args)
    records = []
    with Worker(Product, args.device, args.threads, PRODUCT[args.device]) as product:
        product.answer()
        for trainer in args.trainers:
            for classes in args.classes:
                records += measure(args, trainer, classes, product)
                if args.json:  # after each case: an interruption costs no more than one
                    write_output(args.json, as_json(args, records) + "\n")
    print("\n\n".join(FORMATS[args.format](table) for table in tables(args, records)))
    return int(any(differs(record["naive"]) for record in records if "naive" in record))


def as_json(args, records: list[dict], **versions: str) -> str:
    asked = {key: value for key, value in vars(args).items() if key not in ("json", "format")}
    versions["torch"] = torch.__version__
    return json.dumps({**versions, "arguments": asked, "records": records})
