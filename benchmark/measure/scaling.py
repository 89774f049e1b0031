"""Operations, memory and time of a training step on each of several ranks.

`torchrun --nproc_per_node W -m benchmark scaling --json FILE` measures W ranks, and without
torchrun one process. The table has all that is in FILE, beside what one process took.
"""

import json
from pathlib import Path
from statistics import median

from trainers.prompting.errors import check_name
from trainers.prompting.method import METHODS
from trainers.prompting.running import ranks

from ..cli import Parser, from_one, from_zero, write_output
from ..report.render import as_markdown
from ..report.tables import Cell, Table, memory
from .case import Case, Model
from .geometry import GEOMETRY
from .speed import check_device

HEAD = [
    "Classes", "Ranks x threads", "Step (s)", "TFLOP of a rank", "Over 1/W of one process",
    "Over the largest whole share", "Peak memory of a rank",
]  # fmt: skip
CAPTION = (
    "Of the rank that has most. The largest whole share is what one process computes, times the "
    "larger of ceil(B / W) / B and ceil(K / W) / K."
)


def main(argv: list[str]) -> None:
    """`python -m benchmark scaling`, alone or under torchrun."""
    parser = Parser(prog="python -m benchmark scaling", description=__doc__)
    add = parser.add_argument
    add("--trainer", default="ALIGN", help="(default: %(default)s)")
    add("--backbone", default="ViT-B/16", help="(default: %(default)s)")
    add("--classes", nargs="+", type=from_one, default=[50, 1000], help="(default: 50 1000)")
    add("--batch", type=from_one, default=8, help="images of a step (default: %(default)s)")
    add("--device", default="cpu", help="cpu (the default) or cuda")
    add("--precision", default="fp32", help="fp32 (the default), amp or fp16")
    add("--threads", type=from_one, default=1, help="of each rank, on the CPU (default: 1)")
    add("--repeats", type=from_zero, default=3, help="steps that are timed (default: 3)")
    add("--json", type=Path, metavar="FILE", help="keep the numbers there, beside earlier ones")
    args = parser.parse_args(argv)
    check_name("trainer", args.trainer, METHODS)
    check_name("backbone", args.backbone, GEOMETRY)
    check_device(args.device)
    records = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    with ranks.joined():
        for classes in args.classes:
            records.append(record(args, classes))
        if not ranks.is_first():
            return
    if args.json:
        write_output(args.json, json.dumps(records, indent=1) + "\n")
    print(as_markdown(table(args, records)))


def record(args, classes: int) -> dict:
    """What a step takes: the most of all ranks."""
    case = Case(
        args.trainer, GEOMETRY[args.backbone], classes, args.batch, args.device, args.precision,
        args.threads,
    )  # fmt: skip
    model = Model(case)
    model.step()
    seconds = [model.timed("step") for _ in range(args.repeats)]
    mib = model.peak_memory()  # before counting, which takes more
    found = ranks.of_all((median(seconds or [0]), model.counted("step"), mib))
    most = dict(zip(("seconds", "operations", "mib"), map(max, *found, found[0]), strict=True))
    return {
        "trainer": args.trainer, "backbone": args.backbone, "classes": classes,
        "batch": args.batch, "ranks": ranks.count(), "threads": args.threads, **most,
    }  # fmt: skip


def table(args, records: list[dict]) -> Table:
    """All records of this method, backbone and batch."""
    same = ("trainer", "backbone", "batch")
    records = [r for r in records if all(r[key] == getattr(args, key) for key in same)]
    alone = {r["classes"]: r["operations"] for r in records if r["ranks"] == 1}
    lines = []
    for r in sorted(records, key=lambda r: (r["classes"], r["ranks"], r["threads"])):
        K, B, W, operations = r["classes"], r["batch"], r["ranks"], r["operations"]
        over = ["", ""]
        if K in alone:
            share = max(-(-B // W) / B, -(-K // W) / K)
            over = [f"{operations / alone[K] / part:.3f}" for part in (1 / W, share)]
        step = f"{r['seconds']:.3g}" if r["seconds"] else "-"
        size = [f"{W} x {r['threads']}", step, f"{operations / 1e12:.3f}"]
        lines.append([Cell(text) for text in (str(K), *size, *over, memory(r["mib"]))])
    title = f"{args.trainer}, {args.backbone}, batch {args.batch}, {args.device}"
    return Table(title, HEAD, lines, [CAPTION])
