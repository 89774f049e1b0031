"""The arguments of the commands of protocols: their parser, data sets, and KEY VALUE pairs."""

import argparse
import os
import re
from pathlib import Path

from recipe.configs import SENTENCES, check_no_equals, with_located_files
from trainers.prompting.errors import UserError
from trainers.prompting.record.hashes import from_anywhere

from ..cli import Parser, add_plugin, each, from_one, seed, words
from ..protocols.base import TRAINERS, Protocol
from ..protocols.configs import GROUPS, check_datasets, use_plugins, usual_methods, with_groups
from .slurm import site

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.\w+)*")  # also TRAINER.CoPrompt.N_CTX

# Keys that the launcher sets, and the option that sets them.
RESERVED = {
    "DATASET.FEATURES": "--features",
    "DATASET.NUM_SHOTS": "--shots",
    "DATASET.SUBSAMPLE_CLASSES": "the protocol itself",
    "DATASET.NAME": "the DATASET argument",
    "DATASET.ROOT": "--root",
    "MODEL.BACKBONE.NAME": "--backbone",
    "OUTPUT_DIR": "--output",
    "RESUME": "the launcher itself",
    "SEED": "--seeds",
    "TEST.OOD": "--ood",
    "TRAINER.NAME": "--trainers",
}


def build_parser(protocol: Protocol) -> Parser:
    """Return the parser with the arguments of all protocols, and those of this one."""
    name = "DATASET" if protocol.datasets else "TARGET"
    usual = protocol.datasets or "the usual targets of the source"
    parser = Parser(
        prog=f"python -m benchmark {protocol.name}",
        description=f"{protocol.title}: {protocol.summary}. Finished runs are skipped.",
        usage=f"%(prog)s [{name} ...] [options] [KEY VALUE ...]",
        parents=[site.build_parser()],
    )
    trainers = protocol.options.get("--trainers", {}).get("default", "")
    parser.set_defaults(usual=protocol.datasets, usual_trainers=trainers)
    parser.add_argument(
        "words",
        nargs="*",
        metavar=f"{name} ... KEY VALUE ...",
        help=f"data sets, by their names in configs/datasets, or {', '.join(GROUPS)} (default: "
        f"{usual}), then settings for train.py",
    )
    add = parser.add_argument_group("which runs").add_argument
    for flag, settings in protocol.options.items():
        add(flag, **(own_default(settings) if flag == "--trainers" else settings))
    add(
        "--vary", action="append", default=[], metavar="KEY=VALUE,VALUE",
        help="do the runs with each of these values, in separate folders, and compare "
        "them; may be repeated",
    )  # fmt: skip
    add("--seeds", type=each(seed), default="1 2 3", help="seeds (default: '%(default)s')")
    add = (on := parser.add_argument_group("on what")).add_argument
    add("--root", type=Path, metavar="DATA", help="folder of the data sets")
    add("--output", type=Path, default=Path("output"), help="output folder (default: %(default)s)")
    add(
        "--config",
        help="the methods' config: the name of a file in configs/trainers/TRAINER, or the path of "
        "a .yaml file (default: 'emoji' for the emoji data sets, else the protocol's)",
    )
    add_plugin(on)
    add("--backbone", help="a CLIP by name or file (default: the config's)")
    add(
        "--features",
        metavar="FILE",
        help="a file of features in place of images (docs/features.md; default: the data set's)",
    )
    add(
        "--sentences",
        metavar="TEXT",
        help="about the classes: a JSON file, clip7, clip80, or templates",
    )
    add(
        "--ood",
        type=words,
        default=(),
        metavar="SETS",
        help="data sets of other classes, in one argument: measure how well each run separates its "
        "test images from theirs (docs/metrics.md)",
    )
    add = parser.add_argument_group("how they are done").add_argument
    add(
        "--jobs",
        type=from_one,
        help="number of runs at once (default: one for each GPU, or for each core up to four)",
    )
    add("--dry-run", action="store_true", help="only print the commands, or Slurm's scripts")
    add(
        "--only",
        nargs="+",
        metavar="FOLDER",
        help="do only the runs in these folders below the output, and not the runs that they need",
    )
    return parser


def own_default(settings: dict) -> dict:
    """Return the settings of --trainers without the default, which a data set may replace."""
    usual = settings.get("help", TRAINERS["--trainers"]["help"]) % {"default": settings["default"]}
    return settings | {"default": None, "help": usual.replace(")", ", or the data set's own)")}


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Parse the arguments: the data sets go to `datasets`, the KEY VALUE pairs to `opts`."""
    args = parser.parse_intermixed_args(argv)
    args.plugins = tuple(map(from_anywhere, args.plugin))
    use_plugins(args.plugins)
    args.datasets, args.opts = split_words(args.words)
    args.datasets = args.datasets or words(args.usual)
    if getattr(args, "trainers", "") is None:
        check_datasets(args.datasets)
        args.trainers = usual_methods(args.datasets, words(args.usual_trainers))
    if args.sentences:
        pair = with_located_files({SENTENCES: args.sentences}, os.getcwd())
        args.opts += (SENTENCES, str(pair[SENTENCES]))
    if args.features:
        args.features = os.path.abspath(args.features)
    args.output = Path(os.path.abspath(args.output))
    return args


def split_words(given: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split words into data sets and KEY VALUE pairs, which begin with the first KEY."""
    start = next((i for i, word in enumerate(given) if KEY.fullmatch(word)), len(given))
    datasets, opts = with_groups(words(" ".join(given[:start]))), tuple(given[start:])
    for key in (*given[:start], *opts[::2]):
        check_no_equals(key)
        if key in RESERVED:
            raise UserError(f"{key} cannot be given as KEY VALUE: {RESERVED[key]} sets it")
        if key == "DATASET.KNOWN":
            raise UserError(
                f"{key} cannot be given as KEY VALUE, as tables would not name it: give --known, "
                f"or --vary {key}=0.5"
            )
    if len(opts) % 2:
        raise UserError(
            f"{opts[-1]} has no value: write KEY VALUE, and quote several values of an option, as "
            "in --trainers 'CoOp ALIGN'"
        )
    return datasets, opts
