"""Tables of `python -m benchmark measure speed`, made from its records."""

from statistics import median

from ..records import memory_text
from ..report.table import Cell, Table

BOUND_NOTE = (
    "Bound: the time of as many operations at the peak rate. On a CPU, Bound, the shares and Over "
    "encoder are of the processor's time of all threads; other seconds and Images/s are by the "
    "clock."
)
TRAINING_NOTE = (
    "Transport: the scores' share of a step, forward and backward. Encoders: the rate without it. "
    "Waits, on a GPU: how often the host waits for it in a step."
)
EVALUATION_NOTE = (
    "Text features are kept. Encoder alone: only the image encoder, with the same visual prompts."
)


def spread(values: list[float]) -> str:
    """Return the median as text, with the least and greatest value in brackets."""
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"


def number(value: float | None, form: str = ".3g") -> str:
    """Return a number in a format, or a dash for None."""
    return "-" if value is None else f"{value:{form}}"


def training_cells(part: dict) -> dict[str, str]:
    """Return the cells of a case's training, by column."""
    if "problem" in part:
        return {"Step (s)": part["problem"]}
    return {
        "Step (s)": spread(part["seconds"]),
        **bound_cells(part),
        "Encoders": number(part["encoders_of_peak"], ".0%"),
        "Transport": number(part["transport_share"], ".0%"),
        "Recomputed": " and ".join(part["recomputed"]) or "-",
        **({} if part["waits"] is None else {"Waits": str(len(part["waits"]))}),
    }


def bound_cells(part: dict) -> dict[str, str]:
    """Return the cells of a case's time, memory and operations, and of public code's, by column."""
    return {
        "Processor (s)": number(median(part["processor_seconds"])),
        **public_cells(part),
        "Peak memory": memory_text(part["peak_mib"]),
        "TFLOP": number(part["operations"] / 1e12),
        "Bound (s)": number(part["bound"]),
        "Of peak rate": number(part["of_peak"], ".0%"),
    }


def public_cells(part: dict) -> dict[str, str]:
    """Return the cells of the public code next to a case's training or evaluation, by column."""
    if "public" not in part:
        return {}
    public = part["public"]
    if "problem" in public:
        return {"Public (s)": public["problem"]}
    time, processor = (
        median(public[key]) / median(part[key]) for key in ("seconds", "processor_seconds")
    )
    return {
        "Public (s)": spread(public["seconds"]),
        "Public / ours": number(time),
        "of processor time": number(processor),
        "of operations": number(public["operations"] / part["operations"]),
        "Public memory": memory_text(public["peak_mib"]),
    }


def evaluation_cells(part: dict) -> dict[str, str]:
    """Return the cells of a case's evaluation, by column."""
    if "problem" in part:
        return {"Batch (s)": part["problem"]}
    return {
        "Batch (s)": spread(part["seconds"]),
        **bound_cells(part),
        "Images/s": number(part["images_per_second"]),
        "Encoder alone (s)": spread(part["encoder_seconds"]),
        "Over encoder": number(part["over_encoder"], ".3f"),
        "Text, once (s)": number(part["text_seconds"]),
    }


def case_name(record: dict) -> str:
    """Return method, classes, precision and settings of a record as text."""
    settings = "".join(f", {key} {value}" for key, value in record["settings"].items())
    return f"{record['trainer']}, {record['classes']}, {record['precision']}{settings}"


def table(title: str, rows: dict[str, dict[str, str]], caption: list[str]) -> Table:
    """Return a table of named rows, with a dash where a row lacks a cell."""
    head = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[name, *(row.get(column, "-") for column in head)] for name, row in rows.items()]
    cells = [[Cell(text) for text in line] for line in lines]
    return Table(title, ["Method, classes, precision", *head], cells, caption)


def tables(args, records: list[dict]) -> list[Table]:
    """Return the tables of training and evaluation, without empty ones."""
    repeats = f"Medians of {args.repeats} repeats (least-greatest) with random weights."
    notes = [repeats, BOUND_NOTE, *peak_rates(records)]
    kinds = {
        "training": ("Training steps", training_cells, [*notes, TRAINING_NOTE]),
        "evaluation": ("Evaluation", evaluation_cells, [*notes, EVALUATION_NOTE]),
    }
    where = f"{args.backbone}, {args.device}, {args.threads} threads"
    batch = {"training": args.batch, "evaluation": args.eval_batch}
    groups = [
        table(
            f"{title}: {where}, batch {batch[part]}",
            {case_name(r): cells(r[part]) for r in records if part in r},
            caption,
        )
        for part, (title, cells, caption) in kinds.items()
    ]
    return [group for group in groups if group.lines]


def peak_rates(records: list[dict]) -> list[str]:
    """Return a sentence for each precision: the peak rate that the matrix product reached."""
    rates: dict[str, list[float]] = {}
    for record in records:
        for part in ("training", "evaluation"):
            if rate := record.get(part, {}).get("peak_rate"):
                rates.setdefault(record["precision"], []).append(rate / 1e9)
    return [
        f"Peak rate in {precision}, of a large matrix product timed with each case: "
        f"{spread(values)} GFLOP/s, on a CPU of one thread."
        for precision, values in rates.items()
    ]
