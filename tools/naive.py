"""Compare methods with a naive reference, written like public code: time, memory and logits.

Training steps and evaluations have random weights of full size and are measured as by `python -m
benchmark speed`, each side in a separate process. The reference (trainers/naive.py) takes minutes,
and tens of GiB from 150 classes on; it computes only in the first of the precisions.
"""

from dataclasses import replace
from itertools import groupby
from statistics import median

import torch

from benchmark.cli import from_one
from benchmark.measure.case import Case, Model, NaiveModel, operations
from benchmark.measure.speed import (
    FORMATS,
    build_parser,
    cases,
    measured,
    named,
    parse,
    repeated,
    save,
    say,
)
from benchmark.measure.speed_tables import case_name, number, spread, table
from benchmark.report.tables import Table, memory
from recipe.environment import peak_memory_mib

from . import run

# The methods that the reference can compute.
NAIVE = ("ALIGN", "MaPLe", "CoOp", "KgCoOp", "ProGrad", "PromptSRC", "TCP", "CoPrompt")
KINDS: dict[str, type[Model]] = {"ours": Model, "naive": NaiveModel}
SAME = 1e-4  # largest allowed difference of logits in float32


def training(case: Case, kind: str, repeats: int) -> dict:
    """Measure training steps of one side, `ours` or `naive`: time, memory, operations, logits."""
    model = KINDS[kind](case)
    say(case, f"{kind}, first step")
    logits = model.first_step().tolist()
    times = repeated(model.step, case, f"{kind}, step", repeats)
    mib = peak_memory_mib(case.device)  # before counting, which takes more memory
    counted = operations(model.step)
    return {"logits": logits, "seconds": times, "peak_mib": mib, "operations": counted}


def evaluation(case: Case, kind: str, repeats: int) -> dict:
    """Measure the time of evaluations of one side, `ours` or `naive`."""
    model = KINDS[kind](case)
    say(case, f"{kind}, first evaluation")
    model.evaluate()
    times = repeated(model.evaluate, case, f"{kind}, evaluation", repeats)
    return {"seconds": times, "images_per_second": case.batch / median(times)}


def both_parts(args, case: Case, kind: str, repeats: int) -> dict:
    """Measure training and evaluation of one side."""
    evaluated = replace(case, training=False, batch=args.eval_batch)
    return {
        "training": measured(training, case, kind, repeats),
        "evaluation": measured(evaluation, evaluated, kind, repeats),
    }


def compare(args, same: list[Case]) -> list[dict]:
    """Measure a method and number of classes in each precision, and the reference once.

    Args:
        args: of the command line.
        same: the cases, which differ only in precision; the reference takes the first.

    Returns:
        A record for each case.
    """
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
    """Return the largest difference of logits, and remove the logits from both records."""
    logits = [part.pop("logits", None) for part in (ours, naive)]
    if None in logits:
        return None
    return (torch.tensor(logits[0]) - torch.tensor(logits[1])).abs().max().item()


def ratios(ours: dict, naive: dict, differs: bool) -> dict:
    """Return the reference's seconds and memory over ours; None where logits differ."""

    def ratio(part, value):
        if differs or "problem" in ours[part] or "problem" in naive[part]:
            return None
        return value(naive[part]) / value(ours[part])

    return {
        "step": ratio("training", lambda found: median(found["seconds"])),
        "memory": ratio("training", lambda found: found["peak_mib"]),
        "evaluation": ratio("evaluation", lambda found: median(found["seconds"])),
    }


def cells(record: dict) -> dict[str, str]:
    """Return the cells of a record, by column."""
    trained, evaluated = record["naive"]["training"], record["naive"]["evaluation"]
    found = {"Naive step (s)": trained.get("problem", "")}
    if "problem" not in trained:
        found = {
            "Naive step (s)": spread(trained["seconds"]),
            "Memory": memory(trained["peak_mib"]),
            "TFLOP": number(trained["operations"] / 1e12),
        }
    rate = evaluated.get("images_per_second")
    return found | {
        "Naive images/s": evaluated.get("problem") or number(rate),
        "Faster step": number(record["ratios"]["step"]),
        "Less memory": number(record["ratios"]["memory"]),
        "Faster evaluation": number(record["ratios"]["evaluation"]),
    }


def comparison(args, records: list[dict]) -> Table:
    """Return the table, with a problem for each case whose reference has other logits."""
    precision, where = args.precision[0], f"{args.backbone}, {args.device}, {args.threads} threads"
    largest = [r["largest_difference"] for r in records if r["largest_difference"] is not None]
    found = table(
        f"Naive reference: {where}, training batch {args.batch}, evaluation batch "
        f"{args.eval_batch}",
        {case_name(record): cells(record) for record in records},
        [
            f"The naive reference computes in {precision}; median of {args.naive_repeats}, ours of "
            f"{args.repeats}.",
            f"Its logits and ours in {precision} differ by "
            f"{number(max(largest, default=None), '.1g')} at most.",
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
    """Run `python -m tools.naive`; return 1 if a reference has other logits."""
    parser = build_parser("python -m tools.naive", __doc__)
    add = parser.add_argument
    add("--trainers", nargs="+", default=["ALIGN"], choices=NAIVE, help="methods (default: ALIGN)")
    add("--naive-repeats", type=from_one, default=1, help="repeats of the reference (default: 1)")
    args = parse(parser, argv)
    records: list[dict] = []
    for _, same in groupby(cases(args), lambda case: (case.trainer, case.classes)):
        records += compare(args, list(same))
        save(args, records)
    print(FORMATS[args.format](comparison(args, records)))
    return int(any(record["differs"] for record in records))


if __name__ == "__main__":
    run("naive", main)
