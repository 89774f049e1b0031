"""The protocols' commands: from what the user asks for to runs, and from these to a table."""

import argparse
import math
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import BadInput, Parser
from ..protocols import runs as protocols
from ..protocols.configs import check_names
from ..protocols.runs import TARGETS, Run
from ..report.command import on_disk_table, table
from ..report.results import Outcome
from .engine import Engine, Settings, command
from .machine import default_jobs, gpus
from .progress import Progress

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


def whole_numbers(text: str) -> list[int]:
    """Whole numbers from 1 on, each once."""
    return list(dict.fromkeys(whole(word) for word in words(text)))


def weights(text: str) -> list[float]:
    """Numbers from 0 to 1, each once."""
    return list(dict.fromkeys(weight(word) for word in words(text)))


def weight(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return number


def pairs(text: str) -> list[tuple[int, int]]:
    """Pairs `M,N` of whole numbers, apart by spaces, each once."""
    found = [word.split(",") for word in text.split()]
    if wrong := next((pair for pair in found if len(pair) != 2), None):
        raise argparse.ArgumentTypeError(f"'{','.join(wrong)}' is not a pair M,N")
    return list(dict.fromkeys((whole(M), whole(N)) for M, N in found))


def base2new(argv: list[str]) -> int:
    """`python -m benchmark base2new`."""
    parser = build_parser("base2new", "Train on base classes, test on base and on new.")
    add_shots(parser)
    args = parse(parser, argv)
    what = (args.words, args.trainers, args.seeds, args.shots, args.config)
    return finish(args, protocols.base2new(args.output, *what))


def few_shot(argv: list[str]) -> int:
    """`python -m benchmark few_shot`."""
    parser = build_parser("few_shot", "Train with few images of all classes, test on all.")
    default = "1 2 4 8 16"
    text = "images per class, in one argument (default: '%(default)s')"
    parser.add_argument("--shots", type=whole_numbers, default=default, help=text)
    args = parse(parser, argv)
    what = (args.words, args.trainers, args.seeds, args.shots, args.config)
    return finish(args, protocols.few_shot(args.output, *what))


def cross_dataset(argv: list[str]) -> int:
    """`python -m benchmark cross_dataset`."""
    return transfer("cross_dataset", "Train on one data set, test on others.", argv)


def domain_generalization(argv: list[str]) -> int:
    """`python -m benchmark domain_generalization`."""
    text = "Train on one data set, test on its classes in other styles."
    return transfer("domain_generalization", text, argv)


def transfer(protocol: str, description: str, argv: list[str]) -> int:
    """A protocol that trains on one data set and tests on others."""
    parser = build_parser(protocol, description, default="")
    add_shots(parser)
    parser.add_argument("--source", default="imagenet", help="(default: %(default)s)")
    args = parse(parser, argv)
    check_names([args.source], [])
    targets = args.words or TARGETS.get((protocol, args.source), "").split()
    if not targets:
        raise BadInput(f"the source {args.source} has no usual targets: name some data sets")
    if args.source in targets:
        raise BadInput(f"the source {args.source} cannot be a target: it is tested anyway")
    check_names(targets, [])
    what = (args.source, targets, args.trainers, args.seeds, args.shots, args.config)
    return finish(args, protocols.transfer(protocol, args.output, *what))


def ablation(argv: list[str]) -> int:
    """`python -m benchmark ablation`."""
    text = "ALIGN base-to-new with each beta of the convex form, and with each M and N."
    parser = build_parser("ablation", text, trainers=False)
    add_shots(parser)
    betas = "weights of the token level, from 0 to 1, in one argument (default: '%(default)s')"
    parser.add_argument("--betas", type=weights, default="0 0.2 0.5 0.7 1", help=betas)
    text = "numbers of visual and textual prompts, as in '1,1 2,2 4,4' (default: none)"
    parser.add_argument("--mn", type=pairs, default="", metavar="M,N", help=text)
    args = parse(parser, argv)
    if not args.betas and not args.mn:
        raise BadInput("there is nothing to vary: --betas and --mn are both empty")
    what = (args.words, args.seeds, args.shots, args.betas, args.mn, args.config)
    return finish(args, protocols.ablation(args.output, *what))


def build_parser(
    protocol: str, description: str, default: str = "emoji", trainers: bool = True
) -> Parser:
    """The arguments that all protocols have, and --trainers.

    `default` are the data sets when none are named; empty, they are targets, by the source.
    """
    name = "DATASET" if default else "TARGET"
    parser = Parser(
        prog=f"python -m benchmark {protocol}",
        description=f"{description} Finished runs are skipped.",
        usage=f"%(prog)s [{name} ...] [options] [KEY VALUE ...]",
    )
    parser.set_defaults(protocol=protocol, default=default)
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar=f"{name} ... KEY VALUE ...",
        help=f"names in configs/datasets (default: {default or 'those usual for the source'}), "
        "then options for train.py",
    )
    if trainers:
        add(
            "--trainers",
            type=words,
            default="ZeroshotCLIP CoOp ALIGN",
            help="names in configs/trainers, in one argument (default: '%(default)s')",
        )
    add("--seeds", type=seeds, default="1 2 3", help="(default: '%(default)s')")
    add("--root", type=Path, metavar="DATA", help="the folder of the data sets")
    add("--output", type=Path, default=Path("output"), help="(default: %(default)s)")
    add(
        "--config",
        help="name of the trainers' config file (default: 'emoji' for the emoji data sets, "
        "else the protocol's)",
    )
    add("--backbone", help="a CLIP by name or file (default: the config's)")
    add(
        "--jobs",
        type=whole,
        help="runs at once (default: one for each GPU, or for each core up to four)",
    )
    add("--dry-run", action="store_true", help="only print the commands")
    return parser


def add_shots(parser: Parser) -> None:
    """One number of shots."""
    text = "images per class (default: %(default)s)"
    parser.add_argument("--shots", type=whole, default=16, help=text)


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """The arguments, with the data sets in `words` and the KEY VALUE pairs in `opts`."""
    args = parser.parse_intermixed_args(argv)
    args.words, args.opts = split_words(args.words)
    args.words = args.words or words(args.default)
    for name in ("trainers", "seeds", "shots"):
        if getattr(args, name, None) == []:
            raise BadInput(f"--{name} names none")
    check_names(args.words, getattr(args, "trainers", ()))
    args.output = Path(os.path.abspath(args.output))
    return args


def split_words(given: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The data sets, and the KEY VALUE pairs: these begin with the first word in capitals."""
    start = next((i for i, word in enumerate(given) if KEY.fullmatch(word)), len(given))
    datasets, opts = words(" ".join(given[:start])), tuple(given[start:])
    for key in opts[::2]:
        if key in RESERVED:
            raise BadInput(f"{key} cannot be given as an option: {RESERVED[key]} sets it")
    if len(opts) % 2:
        raise BadInput(f"the option {opts[-1]} has no value: they come as KEY VALUE")
    return datasets, opts


def finish(args: argparse.Namespace, runs: list[Run]) -> int:
    """Do the runs and print their table: 0 when all is complete, 1 when any run failed."""
    varied = {key for run in runs for key in run.opts[::2]}
    if clash := next((key for key in args.opts[::2] if key in varied), None):
        raise BadInput(f"{clash} cannot be given as an option: {args.protocol} varies it")
    protocols.check_classes(runs, args.opts)
    devices = gpus()
    settings = Settings(
        root=Path(os.path.abspath(args.root)) if args.root else None,
        backbone=args.backbone,
        opts=args.opts,
        jobs=args.jobs or default_jobs(devices),
        gpus=devices,
    )
    engine = Engine(runs, settings)
    for note in engine.notes:
        print(note, file=sys.stderr)
    if args.dry_run:
        print(listing(engine))
        return 0
    outcomes = execute(engine, args.output)
    print(table(outcomes, args.protocol))
    text = on_disk_table(args.output, args.protocol, "json")
    write(args.output / args.protocol / "table.json", text)
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
    """Write a file as a whole or not at all.

    Raises:
        BadInput: it cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
