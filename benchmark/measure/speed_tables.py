"""The tables of the speed benchmark, from its records."""

from collections.abc import Callable
from statistics import median

from ..report.tables import Cell, Table, memory


def spread(values: list[float]) -> str:
    """Median, and in brackets the least and the greatest."""
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"


def number(value: float | None, form: str = ".3g") -> str:
    """A number in a format, or a dash."""
    return "-" if value is None else f"{value:{form}}"


# Heads of columns, and what stands in them for the part of a record that has numbers.
Columns = dict[str, Callable[[dict], str]]
TRAINING: Columns = {
    "Step (s)": lambda part: spread(part["seconds"]),
    "Peak memory": lambda part: memory(part["peak_mib"]),
    "TFLOP": lambda part: number(part["operations"] / 1e12),
    "Over necessary": lambda part: number(part["over_necessary"], ".3f"),
    "Of peak rate": lambda part: number(part["of_peak"], ".0%"),
    "Encoders": lambda part: number(part["encoders_of_peak"], ".0%"),
    "Transport": lambda part: number(part["transport_share"], ".0%"),
    "Recomputed": lambda part: " and ".join(part["recomputed"]) or "-",
}
EVALUATION: Columns = {
    "Batch (s)": lambda part: spread(part["seconds"]),
    "Images/s": lambda part: number(part["images_per_second"]),
    "Encoder alone (s)": lambda part: spread(part["encoder_seconds"]),
    "Over encoder": lambda part: number(part["over_encoder"], ".3f"),
    "Text, once (s)": lambda part: number(part["text_seconds"]),
    "Peak memory": lambda part: memory(part["peak_mib"]),
}
TRAINING_NOTE = (
    "Transport: the scores' share of a step, forward and backward. Encoders: the rate without it."
)
EVALUATION_NOTE = (
    "Text features are kept. Encoder alone: the image encoder under the same visual prompts."
)


def case_name(record: dict) -> str:
    """Method, classes and precision of a record."""
    return f"{record['trainer']}, {record['classes']}, {record['precision']}"


def line(record: dict, parts: dict[str, Columns]) -> list[Cell]:
    """The cells of a record: its name, and the columns of its parts.

    A part that has a problem tells only that.
    """
    texts = [case_name(record)]
    for key, columns in parts.items():
        part = record[key]
        if "problem" in part:
            texts += [part["problem"]] + ["-"] * (len(columns) - 1)
        else:
            texts += [column(part) for column in columns.values()]
    return [Cell(text) for text in texts]


def table(title: str, records: list[dict], parts: dict[str, Columns], caption: list[str]) -> Table:
    """A table of the records that have these parts."""
    head = ["Method, classes, precision", *(name for part in parts.values() for name in part)]
    lines = [line(record, parts) for record in records if parts.keys() <= record.keys()]
    return Table(title, head, lines, caption)


def tables(args, records: list[dict]) -> list[Table]:
    """The tables of training and of evaluation."""
    where = f"{args.backbone}, {args.device}, {args.threads} threads"
    if args.compile:
        where += ", compiled"
    repeats = f"Medians of {args.repeats} repeats (least-greatest) with random weights."
    found = [
        table(
            f"Training steps: {where}, batch {args.batch}",
            records,
            {"training": TRAINING},
            [repeats, TRAINING_NOTE, *peak_rates(records)],
        ),
        table(
            f"Evaluation: {where}, batch {args.eval_batch}",
            records,
            {"evaluation": EVALUATION},
            [repeats, EVALUATION_NOTE],
        ),
    ]
    return [one for one in found if one.lines]


def peak_rates(records: list[dict]) -> list[str]:
    """What the large matrix product reached beside the training steps."""
    rates: dict[str, list[float]] = {}
    for record in records:
        if rate := record.get("training", {}).get("peak_rate"):
            rates.setdefault(record["precision"], []).append(rate / 1e9)
    return [
        f"Peak rate in {precision}, by a large matrix product beside each case: {spread(found)} "
        "GFLOP/s."
        for precision, found in rates.items()
    ]
