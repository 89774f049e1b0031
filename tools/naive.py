"""Methods beside a reference in the way of public code: time, memory and logits.

Training steps and evaluations with random weights of the true size, as `python -m benchmark speed`
measures them, each side in a process of its own. The reference (trainers/naive.py) takes minutes,
and tens of GiB from 150 classes on; it computes in the first of the precisions.
"""

from dataclasses import replace
from itertools import groupby
from statistics import median

import torch

from benchmark.cli import from_one
from benchmark.measure.case import Case, Model, NaiveModel, operations, seconds
from benchmark.measure.speed import (
    FORMATS,
    build_parser,
    cases,
    measured,
    named,
    parse,
    save,
    say,
)
from benchmark.measure.speed_tables import Columns, case_name, number, spread, table
from benchmark.report.tables import Table, memory
from recipe.environment import peak_memory_mib

from . import run

# The methods that the reference computes.
NAIVE = ("ALIGN", "MaPLe", "CoOp", "KgCoOp", "ProGrad", "PromptSRC", "TCP", "CoPrompt")
KINDS: dict[str, type[Model]] = {"ours": Model, "naive": NaiveModel}
SAME = 1e-4  # the most that logits in float32 may differ by

TRAINING: Columns = {
    "Naive step (s)": lambda part: spread(part["seconds"]),
    "Memory": lambda part: memory(part["peak_mib"]),
    "TFLOP": lambda part: number(part["operations"] / 1e12),
}
EVALUATION: Columns = {"Naive images/s": lambda part: number(part["images_per_second"])}
RATIOS: Columns = {
    "Faster step": lambda part: number(part["step"]),
    "Less memory": lambda part: number(part["memory"]),
    "Faster evaluation": lambda part: number(part["evaluation"]),
}


def training(case: Case, kind: str, repeats: int) -> dict:
    """Time and count training steps of one side."""
    model = KINDS[kind](case)
    say(case, f"{kind}, first step")
    found: dict = {"logits": model.first_step().tolist(), "seconds": []}
    for i in range(repeats):
        say(case, f"{kind}, step {i + 1} of {repeats}")
        found["seconds"].append(seconds(model.step, case.device))
    found["peak_mib"] = peak_memory_mib(case.device)  # counting takes more
    found["operations"] = operations(model.step)
    return found


def evaluation(case: Case, kind: str, repeats: int) -> dict:
    """Time evaluations of one side."""
    model = KINDS[kind](case)
    say(case, f"{kind}, first evaluation")
    model.evaluate()
    times = []
    for i in range(repeats):
        say(case, f"{kind}, evaluation {i + 1} of {repeats}")
        times.append(seconds(model.evaluate, case.device))
    return {"seconds": times, "images_per_second": case.batch / median(times)}


def both_parts(args, case: Case, kind: str, repeats: int) -> dict:
    """What is found of one side: its training and its evaluation."""
    evaluated = replace(case, training=False, batch=args.eval_batch)
    return {
        "training": measured(training, case, kind, repeats),
        "evaluation": measured(evaluation, evaluated, kind, repeats),
    }


def compare(args, same: list[Case]) -> list[dict]:
    """The records of a method and number of classes in each precision, beside one reference."""
    naive = both_parts(args, same[0], "naive", args.naive_repeats)
    found = [both_parts(args, case, "ours", args.repeats) for case in same]
    largest = difference(found[0]["training"], naive["training"])
    differs = same[0].precision == "fp32" and largest is not None and not largest <= SAME
    records = []
    for case, ours in zip(same, found, strict=True):
        record = named(case) | {"ours": ours, "naive": naive, "largest_difference": largest}
        record |= {"differs": differs, "ratios": ratios(ours, naive, differs)}
        records.append(record)
    return records


def difference(ours: dict, naive: dict) -> float | None:
    """The largest between the logits of both, which stay out of the record."""
    logits = [part.pop("logits", None) for part in (ours, naive)]
    if None in logits:
        return None
    return (torch.tensor(logits[0]) - torch.tensor(logits[1])).abs().max().item()


def ratios(ours: dict, naive: dict, differs: bool) -> dict:
    """How many times the reference's seconds and memory are ours; None where they differ."""

    def ratio(part, value):
        if differs or "problem" in ours[part] or "problem" in naive[part]:
            return None
        return value(naive[part]) / value(ours[part])

    return {
        "step": ratio("training", lambda found: median(found["seconds"])),
        "memory": ratio("training", lambda found: found["peak_mib"]),
        "evaluation": ratio("evaluation", lambda found: median(found["seconds"])),
    }


def comparison(args, records: list[dict]) -> Table:
    """The table, and which references compute something else."""
    precision, where = args.precision[0], f"{args.backbone}, {args.device}, {args.threads} threads"
    largest = [r["largest_difference"] for r in records if r["largest_difference"] is not None]
    apart = number(max(largest, default=None), ".1g")
    shown = [record | record["naive"] for record in records]
    found = table(
        f"Naive reference: {where}, training batch {args.batch}, evaluation batch "
        f"{args.eval_batch}",
        shown,
        {"training": TRAINING, "evaluation": EVALUATION, "ratios": RATIOS},
        [
            f"The naive reference computes in {precision}; median of {args.naive_repeats}, ours of "
            f"{args.repeats}.",
            f"Its logits and ours in {precision} differ by {apart} at most.",
        ],
    )
    found.problems = [
        f"{case_name(record)}: the naive reference computes other logits, "
        f"{record['largest_difference']:.2g} away; no ratio is given"
        for record in records
        if record["differs"]
    ]
    return found


def main(argv: list[str]) -> int:
    """`python -m tools.naive`: 1 if the reference computes something else."""
    parser = build_parser("python -m tools.naive", __doc__)
    add = parser.add_argument
    add("--trainers", nargs="+", default=["ALIGN"], choices=NAIVE, help="(default: ALIGN)")
    add("--naive-repeats", type=from_one, default=1, help="(default: 1)")
    args = parse(parser, argv)
    records: list[dict] = []
    for _, same in groupby(cases(args), lambda case: (case.trainer, case.classes)):
        records += compare(args, list(same))
        save(args, records)
    print(FORMATS[args.format](comparison(args, records)))
    return int(any(record["differs"] for record in records))


if __name__ == "__main__":
    run("naive", main)
