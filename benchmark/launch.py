"""The command `base2new`: from what the user asks for to runs, and from these to a table."""

import argparse
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from .errors import BadInput, Parser
from .machine import default_jobs, gpus
from .progress import Progress
from .protocols import base2new, check_names
from .report import base2new_rows, on_disk, render
from .results import Outcome
from .runner import Engine, Settings, command

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")

# Keys of train.py that the protocol sets, and the option by which to ask for them instead.
RESERVED = {
    "DATASET.NUM_SHOTS": "--shots",
    "DATASET.SUBSAMPLE_CLASSES": "the protocol itself",
    "DATASET.NAME": "the data set's name",
    "DATASET.ROOT": "--root",
    "MODEL.BACKBONE.NAME": "--backbone",
    "OUTPUT_DIR": "--output",
    "RESUME": "the engine itself",
    "SEED": "--seeds",
    "TRAINER.NAME": "--trainers",
}


def words(text: str) -> list[str]:
    """Words apart by spaces or commas, each once."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def whole(text: str, least: int = 1) -> int:
    """A whole number from `least` on."""
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} on")
    return int(text)


def seeds(text: str) -> list[int]:
    """Seeds, each once."""
    return list(dict.fromkeys(whole(word, least=0) for word in words(text)))


def build_parser() -> Parser:
    """The arguments of `base2new`."""
    parser = Parser(
        prog="python -m benchmark base2new",
        description="Train on base classes, test on base and on new. Finished runs are skipped.",
        usage="%(prog)s [DATASET ...] [options] [KEY VALUE ...]",
    )
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="DATASET ... KEY VALUE ...",
        help="names in configs/datasets (default: emoji), then options for train.py",
    )
    add(
        "--trainers",
        type=words,
        default="ZeroshotCLIP CoOp ALIGN",
        help="names in configs/trainers, in one argument (default: '%(default)s')",
    )
    add("--seeds", type=seeds, default="1 2 3", help="(default: '%(default)s')")
    add("--shots", type=whole, default=16, help="images per class (default: %(default)s)")
    add("--root", type=Path, metavar="DATA", help="the folder of the data sets")
    add("--output", type=Path, default=Path("output"), help="(default: %(default)s)")
    add(
        "--config",
        help="name of the trainers' config file "
        "(default: 'emoji' for the emoji data sets, else 'base2new')",
    )
    add("--backbone", help="a CLIP by name or file (default: the config's)")
    add(
        "--jobs",
        type=whole,
        help="runs at once (default: one for each GPU, or for every two cores)",
    )
    add("--dry-run", action="store_true", help="only print the commands")
    return parser  # fmt: skip


def split_words(given: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The data sets, and the KEY VALUE pairs: these begin with the first word in capitals."""
    start = next((i for i, word in enumerate(given) if KEY.fullmatch(word)), len(given))
    datasets, opts = list(dict.fromkeys(given[:start])), tuple(given[start:])
    for key in opts[::2]:
        if key in RESERVED:
            raise BadInput(f"{key} cannot be given as an option: {RESERVED[key]} sets it")
    if len(opts) % 2:
        raise BadInput(f"the option {opts[-1]} has no value: they come as KEY VALUE")
    return datasets or ["emoji"], opts


def main(argv: list[str]) -> int:
    """`python -m benchmark base2new`: 0 when all is complete, 1 when any run failed."""
    args = build_parser().parse_intermixed_args(argv)
    datasets, opts = split_words(args.words)
    for name in ("trainers", "seeds"):
        if not getattr(args, name):
            raise BadInput(f"--{name} names none")
    check_names(datasets, args.trainers)
    output = Path(os.path.abspath(args.output))
    runs = base2new(output, datasets, args.trainers, args.seeds, args.shots, args.config)
    devices = gpus()
    settings = Settings(
        root=Path(os.path.abspath(args.root)) if args.root else None,
        backbone=args.backbone,
        opts=opts,
        jobs=args.jobs or default_jobs(devices),
        gpus=devices,
    )
    engine = Engine(runs, settings)
    for note in engine.notes:
        print(note, file=sys.stderr)
    if args.dry_run:
        print(listing(engine))
        return 0
    outcomes = execute(engine, output)
    print(render(base2new_rows(outcomes)))
    write(output / "base2new" / "table.json", render(on_disk(output), "json"))
    return int(any(outcome.problem for outcome in outcomes))


def execute(engine: Engine, output: Path) -> list[Outcome]:
    """Execute the runs, telling of it; when interrupted say so and leave with code 130."""
    settings = engine.settings
    print(
        f"{len(engine.runs)} runs, {len(engine.todo)} to do; at once: {settings.jobs}; "
        f"threads for each: {settings.threads}; output: {output}",
        file=sys.stderr,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return engine.execute(Progress())
    except KeyboardInterrupt:
        print("Interrupted. Running the same command again continues.", file=sys.stderr)
        sys.exit(130)


def listing(engine: Engine) -> str:
    """What would be done: a comment and a command for each run, fit for a shell."""
    lines = []
    for run in engine.runs:
        if run in engine.todo:
            resume = engine.resumes(run)
            lines.append(f"# {'resume' if resume else 'run'}: {run}")
            lines.append(shlex.join(command(run, engine.settings, resume)))
        else:
            lines.append(f"# skip: {run} (finished)")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
