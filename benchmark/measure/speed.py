"""Measure time, memory and operations of training and evaluation, next to the machine's peak rate.

Weights are random and of full size; every case runs in a separate process.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from trainers.prompting.capabilities.unlabelled import Unlabelled
from trainers.prompting.errors import UserError, check_name
from trainers.prompting.method import METHODS
from trainers.prompting.plugins import load_plugins
from trainers.prompting.record.environment import peak_memory_mib
from trainers.prompting.running.memory import recomputed_encoders
from trainers.prompting.running.precision import PRECISIONS

from ..cli import Parser, add_plugin, from_one, write_output
from ..records import as_recorded
from ..report.table import as_markdown, as_text
from .case import Case, Model, chip_name, product_rate
from .counting import clock, operations, seconds, seconds_of, work_seconds
from .geometry import BERT, GEOMETRY, SIGLIP
from .process import OutOfMemory, in_process
from .public import Public, check_public, check_public_precision
from .speed_tables import tables
from .waits import note_waits

PRODUCT = {"cpu": 4096, "cuda": 8192}  # size of the matrix product that measures the peak rate
FORMATS = {"text": as_text, "markdown": as_markdown}


def training(case: Case, repeats: int, size: int, checkout: Path | None = None) -> dict:
    """Measure training steps, each followed by a large matrix product for the peak rate.

    Args:
        size: of the square matrices of the product.
        checkout: of public code, whose steps are timed in turn.

    Returns:
        A record: `seconds` and `processor_seconds` of each repeat, `peak_mib`, and, of
        the time by `clock`, those of `bounds_of`, `encoders_of_peak` (the share without the scores)
        and `transport_share` (the scores' share of the time; None for the cosine). `waits` is where
        the host waits for a GPU in a step, None without one; `public`, with a checkout, is as in
        `Public.record`.
    """
    public = beside(case, checkout)
    model = Model(case)
    say(case, "first step")
    model.step()
    times, rates, peak_mib = [], [], 0.0
    for i in range(repeats):
        say(case, f"step {i + 1} of {repeats}")
        times.append(seconds_of(model.step, case.device))
        peak_mib = peak_mib or peak_memory_mib(case.device)  # before the product, which takes more
        rates.append(product_rate(case.device, case.precision, size))
        if public:
            public.step()
    rate, total = max(rates), operations(model.step)
    record: dict = both_times(times)
    time = median(record[clock(case.device)])
    record |= {
        "peak_mib": peak_mib,
        **bounds_of(total, time, rate),
        "transport_share": None,
        "encoders_of_peak": None,
        "waits": None,
        "recomputed": recomputed_encoders(model.method),
        "device": chip_name(case.device),
    }
    if public:
        public.close()
        record["public"] = public.record
    if case.device == "cuda":
        with note_waits() as waits:
            model.step()
        record["waits"] = waits
    if model.prepare_score():
        encoders = total - operations(model.score)
        record["score_seconds"] = time_repeats(model.score, case, "scores", repeats)
        score = median(record["score_seconds"])
        record["transport_share"] = score / time
        record["encoders_of_peak"] = encoders / (time - score) / rate
    return record


def beside(case: Case, checkout: Path | None) -> Public | None:
    """Return the public code of a checkout; it starts before our model, whose memory it counts."""
    if checkout is None:
        return None
    say(case, f"first step of {checkout}")
    return Public(case, checkout)


def bounds_of(total: int, time: float, rate: float) -> dict:
    """Return `operations`, `peak_rate` (of the product), their time at it, and its share."""
    bound = total / rate
    return {"operations": total, "peak_rate": rate, "bound": bound, "of_peak": bound / time}


def evaluation(case: Case, repeats: int, size: int, checkout: Path | None = None) -> dict:
    """Measure evaluations, and for comparison the image encoder without scores.

    Returns:
        A record: `seconds` and `processor_seconds` of each repeat, `encoder_seconds`,
        `text_seconds` (None where text depends on the image), `images_per_second`, `over_encoder`
        (time of the whole over that of the encoder, by `clock`), those of `bounds_of`, `peak_mib`,
        and with a checkout `public`, as in `Public.record`.
    """
    public = beside(case, checkout)
    model = Model(case)
    say(case, "first evaluation")
    text_seconds = None
    model.encode_images()  # the first computation on a GPU also loads libraries
    if not model.text_depends_on_image:
        text_seconds = seconds(model.encode_text, case.device)
    model.evaluate()
    times, encoder, rates, peak_mib = [], [], [], 0.0
    for i in range(repeats):
        say(case, f"evaluation {i + 1} of {repeats}")
        times.append(seconds_of(model.evaluate, case.device))
        encoder.append(seconds_of(model.encode_images, case.device))
        peak_mib = peak_mib or peak_memory_mib(case.device)
        rates.append(product_rate(case.device, case.precision, size))
        if public:
            public.step()
    if public:
        public.close()
    record, alone, own = both_times(times), both_times(encoder), clock(case.device)
    time = median(record[own])
    return record | {
        "encoder_seconds": alone["seconds"],
        "images_per_second": case.batch / median(record["seconds"]),
        "over_encoder": time / median(alone[own]),
        "text_seconds": text_seconds,
        "peak_mib": peak_mib,
        **bounds_of(operations(model.evaluate), time, max(rates)),
        **({"public": public.record} if public else {}),
    }


def both_times(times: list[tuple[float, float]]) -> dict:
    """Return the `seconds` and `processor_seconds` of calls, as `timed` gives them."""
    wall, processor = map(list, zip(*times, strict=True))
    return {"seconds": wall, "processor_seconds": processor}


def time_repeats(work: Callable[[], object], case: Case, name: str, repeats: int) -> list[float]:
    """Return the seconds of each of several calls, by `clock`."""
    times = []
    for i in range(repeats):
        say(case, f"{name} {i + 1} of {repeats}")
        times.append(work_seconds(work, case.device))
    return times


def measure_case(function, case: Case, *args) -> dict:
    """Return a function's record of a case, made in a new process; `problem` if memory ran out."""
    try:
        return in_process(function, case, *args)
    except OutOfMemory:
        say(case, "out of memory")
        return {"problem": "out of memory"}


def say(case: Case, what: str) -> None:
    """Report progress on stderr."""
    name = f"{case.trainer}, {case.classes} classes, {case.precision}"
    print(f"{name}: {what}", file=sys.stderr, flush=True)


def cases(args) -> list[Case]:
    """List the training cases: all methods, numbers of classes, settings and precisions."""
    return [
        Case(
            trainer, (GEOMETRY | SIGLIP | BERT)[args.backbone], classes, args.batch, args.device,
            precision, args.threads,
            plugins=tuple(args.plugin), settings=tuple(settings),
        )
        for trainer in args.trainers
        for classes in args.classes
        for settings in args.set or [[]]
        for precision in args.precision
    ]  # fmt: skip


# ---------------------------------------------------------------------- command line


def add_measuring(parser: Parser, repeats: int) -> None:
    """Add the options for device, repeats and output."""
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    add("--threads", type=from_one, default=2, help="CPU threads (default: 2)")
    add(
        "--repeats", type=from_one, default=repeats,
        help="how often each time is measured (default: %(default)s)",
    )  # fmt: skip
    add("--format", choices=FORMATS, default="text", help="format of the tables (default: text)")
    add("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")


def setting(text: str) -> tuple[str, object]:
    """Parse `KEY=VALUE`."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE, as M=8")
    return key, as_recorded(value)


def parse(argv: list[str]):
    """Parse and check the options."""
    parser = Parser(prog="python -m benchmark measure speed", description=__doc__)
    add = parser.add_argument
    add(
        "--trainers", nargs="+", metavar="TRAINER",
        help="methods (default: all, those of plug-ins too)",
    )  # fmt: skip
    add(
        "--backbone", choices=[*GEOMETRY, *SIGLIP, *BERT], default="ViT-B/16",
        help="the CLIP (default: %(default)s)",
    )  # fmt: skip
    add(
        "--classes", nargs="+", type=partial(from_one, least=2), default=[10, 50, 100, 500, 1000],
        metavar="NUMBER", help="numbers of classes (default: 10 50 100 500 1000)",
    )  # fmt: skip
    add("--batch", type=from_one, default=4, help="images of a training step (default: 4)")
    add("--eval-batch", type=from_one, default=20, help="images of an evaluation (default: 20)")
    add(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32"],
        help="one or several (default: fp32)",
    )  # fmt: skip
    add(
        "--set", nargs="+", action="append", type=setting, default=[], metavar="KEY=VALUE",
        help="settings of the methods, as M=8 N=8 of ALIGN (default: their defaults); given "
        "several times, each is measured",
    )  # fmt: skip
    add(
        "--public", type=Path, metavar="CHECKOUT",
        help="folder of published code, such as CoOp's, which is timed in turn with ours",
    )  # fmt: skip
    add_plugin(parser)
    add_measuring(parser, repeats=3)
    args = parser.parse_args(argv)
    load_plugins(args.plugin)
    # steps on unlabelled images need a teacher
    args.trainers = args.trainers or [
        n for n, kind in METHODS.items() if not issubclass(kind, Unlabelled)
    ]
    keys = [key for settings in args.set for key, _ in settings]
    for trainer in args.trainers:
        check_name("trainer", trainer, METHODS)
        for key in keys:
            check_name(f"setting of {trainer}", key, METHODS[trainer].defaults)
    if args.public and keys and (args.trainers != ["ALIGN"] or {*keys} - {*"MN"}):
        raise UserError(
            "--set is passed on to public code only for M and N of ALIGN: leave out --public, or "
            "other methods and keys"
        )
    if args.public:
        check_public(args.public, args.trainers)
        check_public_precision(args.public, args.device, args.precision)
    if args.device == "cpu" and "fp16" in args.precision:
        raise UserError("--precision fp16 needs --device cuda: the CPU has the others")
    return args


def main(argv: list[str]) -> None:
    """Run `python -m benchmark measure speed`."""
    args = parse(argv)
    records = []
    for case in cases(args):
        record: dict = {
            "trainer": case.trainer, "classes": case.classes, "precision": case.precision,
            "settings": dict(case.settings),
        }  # fmt: skip
        evaluated = replace(case, training=False, batch=args.eval_batch)
        rest = args.repeats, PRODUCT[case.device], args.public
        if METHODS[case.trainer].trains:
            record["training"] = measure_case(training, case, *rest)
        record["evaluation"] = measure_case(evaluation, evaluated, *rest)
        records.append(record)
        save(args, records)
    print("\n\n".join(FORMATS[args.format](table) for table in tables(args, records)))


def save(args, records: list[dict], **versions: str) -> None:
    """Write the file of `--json` after each case, so that an interruption loses only one case."""
    if args.json:
        options = {key: value for key, value in vars(args).items() if key not in ("json", "format")}
        if options.get("public"):
            options["public"] = str(options["public"])
        versions["torch"] = torch.__version__
        content = {**versions, "arguments": options, "records": records}
        write_output(args.json, json.dumps(content) + "\n")
