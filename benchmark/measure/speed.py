"""Measure time, memory and operations of training and evaluation, next to the machine's peak rate.

Weights are random and of full size; every case runs in a separate process. The file is long because
training, evaluation and launches are measured next to each other, for one command.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch

from trainers.prompting import build_method
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
from .case import Case, Model, check_usable, chip_name, node_of, product_rate
from .counting import clock, launches, operations, seconds, seconds_of, work_seconds
from .geometry import BERT, GEOMETRY, SIGLIP, class_names, untrained_biomedclip, untrained_siglip
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


def launching(case: Case, repeats: int, checkout: Path | None = None) -> dict:
    """Count the operators that a step or an evaluation dispatches, and time the host.

    Returns:
        A record: `launches` and `processor_seconds` of each repeat; `accelerator`, the same of the
        path of an accelerator, which computes few sentences whole; with a checkout `public`, as in
        `Public.record`.
    """
    public = beside(case, checkout)
    model = Model(case)
    work = model.step if case.training else model.evaluate
    parts: list[dict] = []
    for packs_on in (model.method.text_encoder.packs_on, ()):
        model.method.text_encoder.packs_on = packs_on
        model.method.train(case.training)  # forgets the text features that are kept
        say(case, "launches" + " of an accelerator's path" * (not packs_on))
        work()
        times = []
        for _ in range(repeats):
            times.append(seconds_of(work, case.device))
            if public and not parts:  # in turn with the path of this device
                public.step()
        parts.append({"launches": launches(work), **both_times(times)})
    record = {**parts[0], "accelerator": parts[1]}
    if public:
        public.close()
        record["public"] = public.record
    return record


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
            precision, args.threads, args.memory_budget,
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
    add("--device", default="cpu", help="cpu (the default) or cuda")
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
    add("--backbone", default="ViT-B/16", help="the CLIP (default: %(default)s)")
    add(
        "--classes", nargs="+", type=partial(from_one, least=2), default=[10, 50, 100, 500, 1000],
        metavar="NUMBER", help="numbers of classes (default: 10 50 100 500 1000)",
    )  # fmt: skip
    add("--batch", type=from_one, default=4, help="images of a training step (default: 4)")
    add("--eval-batch", type=from_one, default=20, help="images of an evaluation (default: 20)")
    add(
        "--precision", nargs="+", default=["fp32"], metavar="PRECISION",
        help="fp32 (the default), amp, bf16 or fp16, or several of them",
    )  # fmt: skip
    add(
        "--memory-budget", type=float, default=0.0, metavar="GIB",
        help="memory for the activations of a step, as TRAINER.MEMORY_BUDGET "
        "(default: decided by the machine's memory)",
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
    add(
        "--launches", action="store_true",
        help="count the operators that a step and an evaluation dispatch, and time the host: add "
        "--backbone narrow --classes 2, which leave little else to do",
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
    check_name("backbone", args.backbone, GEOMETRY | SIGLIP | BERT)
    if args.backbone not in GEOMETRY:
        check_fits(args)
    for precision in args.precision:
        check_name("precision", precision, PRECISIONS)
    if not 0 <= args.memory_budget < math.inf:
        raise UserError(
            f"--memory-budget is {args.memory_budget} but must be a number of GiB, or 0 to decide "
            "by the machine's memory"
        )
    if args.public and keys and (args.trainers != ["ALIGN"] or {*keys} - {*"MN"}):
        raise UserError(
            "--set is passed on to public code only for M and N of ALIGN: leave out --public, or "
            "other methods and keys"
        )
    check_usable(args.device)
    if args.public:
        check_public(args.public, args.trainers)
        check_public_precision(args.public, args.device, args.precision, args.launches)
    if args.device == "cpu" and "fp16" in args.precision:
        raise UserError("--precision fp16 needs --device cuda: the CPU has the others")
    return args


def check_fits(args) -> None:
    """Refuse what cannot run on another family's CLIP before the first measurement."""
    if args.public:
        raise UserError(
            f"--public code has no {args.backbone}: choose {' or '.join(GEOMETRY)}, or leave it out"
        )
    build = untrained_siglip if args.backbone in SIGLIP else untrained_biomedclip
    clip_model = build(64, 32, 12, 64, 16, 64, 49408, 64, 1, 12)  # at once
    for trainer, settings in product(args.trainers, args.set or [[]]):
        build_method(trainer, node_of(trainer, settings, 2), clip_model, class_names(2))


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
        step: Callable[..., dict] = launching if args.launches else training
        test: Callable[..., dict] = launching if args.launches else evaluation
        size = () if args.launches else (PRODUCT[case.device],)
        rest = (args.repeats, *size, args.public)
        if METHODS[case.trainer].trains:
            record["training"] = measure_case(step, case, *rest)
        record["evaluation"] = measure_case(test, evaluated, *rest)
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
