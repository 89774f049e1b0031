"""Measure operations, memory and time of a training step that is shared by several ranks.

`torchrun --nproc_per_node W -m tools.scaling --json FILE` measures W ranks; without torchrun, one
process is measured. The table shows all records in FILE, compared with one process.
"""

import json
from pathlib import Path
from statistics import median

from tabulate import tabulate

from benchmark.cli import Parser, from_one, from_zero, write_output
from benchmark.measure.case import Case, Model, check_usable, operations, seconds
from benchmark.measure.geometry import GEOMETRY
from recipe.environment import peak_memory_mib
from trainers.prompting.errors import UserError, check_name
from trainers.prompting.method import METHODS
from trainers.prompting.running import ranks
from trainers.prompting.storage.files import read_file

from . import run

COUNTS = ("classes", "batch", "ranks", "threads")
CAPTION = (
    "Of the rank with the most. The largest whole share is what one process computes, times the "
    "larger of ceil(B / W) / B and ceil(K / W) / K."
)


def main(argv: list[str]) -> None:
    """Run `python -m tools.scaling`, with or without torchrun."""
    parser = Parser(prog="python -m tools.scaling", description=__doc__)
    add = parser.add_argument
    add("--trainer", default="ALIGN", help="the method (default: %(default)s)")
    add("--backbone", default="ViT-B/16", help="the CLIP (default: %(default)s)")
    add(
        "--classes", nargs="+", type=from_one, default=[50, 1000],
        help="numbers of classes (default: 50 1000)",
    )  # fmt: skip
    add("--batch", type=from_one, default=8, help="images of a step (default: %(default)s)")
    add("--device", default="cpu", help="cpu (the default) or cuda")
    add("--precision", default="fp32", help="fp32 (the default), amp or fp16")
    add("--threads", type=from_one, default=1, help="CPU threads of each rank (default: 1)")
    add("--repeats", type=from_zero, default=3, help="timed steps (default: 3)")
    add("--json", type=Path, metavar="FILE", help="add the numbers to those in FILE")
    args = parser.parse_args(argv)
    check_name("trainer", args.trainer, METHODS)
    check_name("backbone", args.backbone, GEOMETRY)
    check_usable(args.device)
    records = earlier(args.json) if args.json else []
    with ranks.joined():
        for classes in args.classes:
            records.append(record(args, classes))
        if not ranks.is_first():
            return
    if args.json:
        write_output(args.json, json.dumps(records, indent=1) + "\n")
    print(table(args, records))


def earlier(path: Path) -> list[dict]:
    """Return the records that earlier calls wrote to a file; none if it does not exist.

    Raises:
        UserError: the file holds something else.
    """
    try:
        records = json.loads(read_file(path))
        if isinstance(records, list) and all(map(is_record, records)):
            return records
        reason = "they would be a list of records"
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(
        f"--json: '{path}' holds no earlier measurements ({reason}): choose another file"
    )


def is_record(found: object) -> bool:
    """Return True if an object is a record as `record` makes it."""
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(key), str) for key in ("trainer", "backbone"))
        and all(isinstance(found.get(key), int) and found[key] > 0 for key in COUNTS)
        and all(isinstance(found.get(key), int | float) for key in ("seconds", "operations", "mib"))
    )


def record(args, classes: int) -> dict:
    """Measure a training step; return the record, with the largest numbers of all ranks."""
    case = Case(
        args.trainer, GEOMETRY[args.backbone], classes, args.batch, args.device, args.precision,
        args.threads,
    )  # fmt: skip
    model = Model(case)
    model.step()
    times = [seconds(model.step, args.device) for _ in range(args.repeats)]
    mib = peak_memory_mib(args.device)  # before counting, which takes more memory
    found = ranks.of_all((median(times or [0]), operations(model.step), mib))
    step, counted, mib = (max(values) for values in zip(*found, strict=True))
    return {
        "trainer": args.trainer, "backbone": args.backbone, "classes": classes,
        "batch": args.batch, "ranks": ranks.count(), "threads": args.threads,
        "seconds": step, "operations": counted, "mib": mib,
    }  # fmt: skip


def table(args, records: list[dict]) -> str:
    """Return the table of all records with this method, backbone and batch size."""
    same = ("trainer", "backbone", "batch")
    records = [r for r in records if all(r[key] == getattr(args, key) for key in same)]
    one_process = {r["classes"]: r["operations"] for r in records if r["ranks"] == 1}
    rows = []
    for r in sorted(records, key=lambda r: (r["classes"], r["ranks"], r["threads"])):
        K, B, W, counted = r["classes"], r["batch"], r["ranks"], r["operations"]
        over = over_largest = ""
        if K in one_process:
            ratio = counted / one_process[K]
            over = f"{ratio * W:.3f}"
            over_largest = f"{ratio / max(-(-B // W) / B, -(-K // W) / K):.3f}"
        rows.append({
            "Classes": K,
            "Ranks x threads": f"{W} x {r['threads']}",
            "Step (s)": f"{r['seconds']:.3g}" if r["seconds"] else "-",
            "TFLOP of a rank": f"{counted / 1e12:.3f}",
            "Over 1/W of one process": over,
            "Over the largest whole share": over_largest,
            "Peak memory of a rank": f"{r['mib'] / 1024:.1f} GiB",
        })  # fmt: skip
    title = f"**{args.trainer}, {args.backbone}, batch {args.batch}, {args.device}**"
    drawn = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    return f"{title}\n\n{drawn}\n\n{CAPTION}"


if __name__ == "__main__":
    run("scaling", main)
