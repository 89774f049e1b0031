"""From what the speed benchmark found to its records, and from these to tables."""

from statistics import median

from ..report.tables import Cell, Table, memory

SAME = 1e-4  # the most that logits in float32 may differ by


# ---------------------------------------------------------------------- from answers to records


def training_record(found: dict, rates: list[float]) -> dict:
    if "problem" in found:
        return found
    operations = found["operations"]
    seconds, rate = median(found["seconds"]), max(rates)
    record = {
        "seconds": found["seconds"],
        "peak_mib": found["peak_mib"],
        "operations": operations,
        "necessary": found["necessary"],
        "over_necessary": operations / sum(found["necessary"].values()),
        "peak_rate": rate,
        "of_peak": operations / seconds / rate,
        "transport_share": None,
        "encoders_of_peak": None,
        **found["about"],
    }
    if "score_seconds" in found:
        scores = median(found["score_seconds"])
        rest = (operations - found["score_operations"]) / (seconds - scores)
        record["score_seconds"] = found["score_seconds"]
        record |= {"transport_share": scores / seconds, "encoders_of_peak": rest / rate}
    return record


def evaluation_record(found: dict, images: int) -> dict:
    if "problem" in found:
        return found
    seconds, encoder = median(found["seconds"]), median(found["encoder_seconds"])
    return {
        "seconds": found["seconds"],
        "encoder_seconds": found["encoder_seconds"],
        "images_per_second": images / seconds,
        "over_encoder": seconds / encoder,
        "text_seconds": found.get("text_seconds"),
        "peak_mib": found["peak_mib"],
    }


def naive_record(training: dict, evaluation: dict, args) -> dict:
    record = {"precision": args.precision[0], "training": training, "evaluation": evaluation}
    if "problem" not in training:
        wanted = ("seconds", "peak_mib", "operations")
        record["training"] = {key: training[key] for key in wanted}
    if "problem" not in evaluation:
        rate = args.eval_batch / median(evaluation["seconds"])
        wanted = {key: evaluation[key] for key in ("seconds", "peak_mib")}
        record["evaluation"] = wanted | {"images_per_second": rate}
    return record


def difference(ours: dict, naive: dict) -> float | None:
    """The largest between the logits of the naive reference and ours in the same precision."""
    if "problem" in ours or "problem" in naive:
        return None
    pairs = zip(sum(ours["first"], []), sum(naive["first"], []), strict=True)
    return max(abs(own - other) for own, other in pairs)


def ratios(record: dict) -> dict:
    """How many times the naive reference's seconds and memory are ours; none where they differ."""
    naive = record["naive"]

    def ratio(part, value):
        ours, theirs = record[part], naive[part]
        if "problem" in ours or "problem" in theirs or differs(naive):
            return None
        return value(theirs) / value(ours)

    def seconds(found):
        return median(found["seconds"])

    return {
        "step": ratio("training", seconds),
        "memory": ratio("training", lambda found: found["peak_mib"]),
        "evaluation": ratio("evaluation", seconds),
    }


def differs(naive: dict) -> bool:
    """Whether the naive reference computes something else; in half precision nobody can tell."""
    largest = naive["largest_difference"]
    return naive["precision"] == "fp32" and largest is not None and not largest <= SAME


# ---------------------------------------------------------------------- from records to tables


def spread(values: list[float]) -> str:
    """Median, and in brackets the least and the greatest."""
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else f"{value:{form}}"


# Heads of columns, and what stands in them for the part of a record that has numbers.
TRAINING = {
    "Step (s)": lambda part: spread(part["seconds"]),
    "Peak memory": lambda part: memory(part["peak_mib"]),
    "TFLOP": lambda part: number(part["operations"] / 1e12),
    "Over necessary": lambda part: number(part["over_necessary"], ".3f"),
    "Of peak rate": lambda part: percent(part["of_peak"]),
    "Encoders": lambda part: percent(part["encoders_of_peak"]),
    "Transport": lambda part: percent(part["transport_share"]),
    "Recomputed": lambda part: " and ".join(part["recomputed"]) or "-",
}
EVALUATION = {
    "Batch (s)": lambda part: spread(part["seconds"]),
    "Images/s": lambda part: number(part["images_per_second"]),
    "Encoder alone (s)": lambda part: spread(part["encoder_seconds"]),
    "Over encoder": lambda part: number(part["over_encoder"], ".3f"),
    "Text, once (s)": lambda part: number(part["text_seconds"]),
    "Peak memory": lambda part: memory(part["peak_mib"]),
}
NAIVE_TRAINING = {
    "Naive step (s)": lambda part: spread(part["seconds"]),
    "Memory": lambda part: memory(part["peak_mib"]),
    "TFLOP": lambda part: number(part["operations"] / 1e12),
}
NAIVE_EVALUATION = {"Naive images/s": lambda part: number(part["images_per_second"])}
RATIOS = {
    "Faster step": lambda part: number(part["step"]),
    "Less memory": lambda part: number(part["memory"]),
    "Faster evaluation": lambda part: number(part["evaluation"]),
}


def line(*parts: tuple[dict, dict]) -> list[Cell]:
    """Cells for each record and its columns; one that has a problem tells that alone."""
    found = []
    for record, columns in parts:
        if "problem" in record:
            found += [Cell(record["problem"]), *[Cell("-")] * (len(columns) - 1)]
        else:
            found += [Cell(column(record)) for column in columns.values()]
    return found


def case_name(record: dict) -> str:
    return f"{record['trainer']}, {record['classes']}, {record['precision']}"


def tables(args, records: list[dict]) -> list[Table]:
    """The tables of training, of evaluation, and of the naive reference where it ran."""
    where = f"{args.backbone}, {args.device}, {args.threads} threads"
    where += ", compiled" * args.compile
    batch, images = f"batch {args.batch}", f"batch {args.eval_batch}"
    repeats = f"Medians of {args.repeats} repeats (least-greatest) with random weights."

    def table(title: str, key: str, caption: list[str], *columns: tuple) -> Table:
        kept = [record for record in records if key in record]
        head = ["Method, classes, precision", *(name for _, heads in columns for name in heads)]
        lines = [
            [Cell(case_name(record)), *line(*((get(record), heads) for get, heads in columns))]
            for record in kept
        ]
        problems = [
            f"{case_name(record)}: the naive reference computes other logits, "
            f"{record['naive']['largest_difference']:.2g} away; no ratio is given"
            for record in kept
            if key == "naive" and differs(record["naive"])
        ]
        return Table(title, head, lines, caption, problems)

    found = [
        table(
            f"Training steps: {where}, {batch}",
            "training",
            [repeats, TRAINING_NOTE, *peak_rates(records)],
            (lambda record: record["training"], TRAINING),
        ),
        table(
            f"Evaluation: {where}, {images}",
            "evaluation",
            [repeats, EVALUATION_NOTE],
            (lambda record: record["evaluation"], EVALUATION),
        ),
        table(
            f"Naive reference: {where}, training {batch}, evaluation {images}",
            "naive",
            naive_notes(args, records),
            (lambda record: record["naive"]["training"], NAIVE_TRAINING),
            (lambda record: record["naive"]["evaluation"], NAIVE_EVALUATION),
            (lambda record: record["ratios"], RATIOS),
        ),
    ]
    return [one for one in found if one.lines]


TRAINING_NOTE = (
    "Transport: the scores' share of a step, forward and backward. Encoders: the rate without it."
)
EVALUATION_NOTE = (
    "Text features are kept. Encoder alone: the image encoder under the same visual prompts."
)


def peak_rates(records: list[dict]) -> list[str]:
    """What the large matrix product reached beside the training steps."""
    rates = {}
    for record in records:
        if rate := record.get("training", {}).get("peak_rate"):
            rates.setdefault(record["precision"], []).append(rate / 1e9)
    return [
        f"Peak rate in {precision}, by a large matrix product beside each case: {spread(found)} "
        "GFLOP/s."
        for precision, found in rates.items()
    ]


def naive_notes(args, records: list[dict]) -> list[str]:
    times = "one repeat" if args.naive_repeats == 1 else f"{args.naive_repeats} repeats"
    found = [record["naive"]["largest_difference"] for record in records if "naive" in record]
    largest = max((value for value in found if value is not None), default=None)
    return [
        f"The naive reference computes in {args.precision[0]}; {times}, in turn with ours.",
        f"Its logits and ours in {args.precision[0]} differ by {number(largest, '.1g')} at most.",
    ]
