"""Train or evaluate one method on one data set; the flags are those of CoOp's train.py."""

# PyTorch takes seconds to import, so only the functions that need it do: --help answers at once.

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping

from recipe.configs import (
    FEATURES,
    SENTENCES,
    TRAINERS,
    prompts_for,
    read_pairs,
    read_tree,
    with_located_files,
)
from trainers.prompting import UserError, __version__
from trainers.prompting.building.base_config import split_base
from trainers.prompting.use.commands import exit_code

EXAMPLES = """\
examples:
  The embedded images and CLIP, in a minute on a CPU:
    python train.py --seed 1 --trainer ALIGN \\
        --dataset-config-file configs/datasets/emoji.yaml \\
        --config-file configs/trainers/ALIGN/emoji.yaml \\
        --output-dir output/demo DATASET.NUM_SHOTS 4
  Your own images, in one folder per class below my_images:
    python train.py --root my_images --seed 1 --trainer TipAdapterF \\
        --dataset-config-file configs/datasets/image_folder.yaml \\
        --config-file configs/trainers/TipAdapterF/few_shot.yaml \\
        --output-dir output/mine DATASET.NUM_SHOTS 16
  Another method, with one setting changed, on public data (docs/running.md) below data:
    python train.py --root data --seed 1 --trainer MaPLe \\
        --dataset-config-file configs/datasets/eurosat.yaml \\
        --config-file configs/trainers/MaPLe/few_shot_8_16.yaml \\
        --output-dir output/maple DATASET.NUM_SHOTS 16 OPTIM.LR 0.002
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: the flags of CoOp's train.py, and a few of this project."""
    methods = " ".join(sorted(path.name for path in TRAINERS.iterdir() if path.is_dir()))
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{EXAMPLES}\nmethods, each with its config files in configs/trainers/METHOD/:\n"
        f"{textwrap.fill(methods, 78, initial_indent='  ', subsequent_indent='  ')}\n\n"
        "data sets: configs/datasets/DATASET.yaml; what methods are: python -m benchmark info",
    )
    parser.add_argument("--version", action="version", version=f"ALIGN {__version__}")
    parser.add_argument("--root", default="", help="folder of the data sets (emoji needs none)")
    parser.add_argument("--output-dir", default="", help="folder of this run (default: ./output)")
    parser.add_argument("--resume", default="", help="folder of the run to continue")
    parser.add_argument("--seed", type=int, default=-1, help="0 or more; default: runs differ")
    parser.add_argument("--transforms", nargs="+", help="augmentations, by name")
    parser.add_argument("--config-file", default="", help="config file of the method")
    parser.add_argument("--dataset-config-file", default="", help="config file of the data set")
    parser.add_argument("--trainer", default="", help="name of the method")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="NAME",
        help="a Python module or a .py file that adds methods; may be repeated",
    )  # fmt: skip
    parser.add_argument("--backbone", default="", help="name or file of the CLIP")
    parser.add_argument(
        "--sentences", default="", metavar="TEXT",
        help="about the classes: a JSON file, clip7, clip80, or templates with {} for the "
        "class name and | between them",
    )  # fmt: skip
    parser.add_argument("--eval-only", action="store_true", help="evaluate a run, without training")
    parser.add_argument("--model-dir", default="", help="folder of the run to evaluate")
    parser.add_argument("--load-epoch", type=int, help="its epoch (default: the best, or the last)")
    parser.add_argument(
        "--shared", action="store_true",
        help="the KEY VALUE pairs are for several methods: keep those that this one does not read",
    )  # fmt: skip
    parser.add_argument("--no-train", action="store_true", help="build data and model, then stop")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, e.g. OPTIM.LR 0.01"
    )
    return parser


def parse_args(argv=None) -> argparse.Namespace:
    """Return the parsed arguments of a command line (default: of this process)."""
    args = build_parser().parse_args(argv)
    if (args.model_dir or args.load_epoch is not None) and not (args.eval_only or args.no_train):
        raise UserError("--model-dir and --load-epoch are for --eval-only: add it, or omit them")
    return args


def read_sources(args) -> list[tuple[str, Mapping[str, object]]]:
    """Return where settings come from, for messages, with their values by dotted key.

    Later sources replace earlier ones: the two config files, the keys that the backbone
    needs, the flags, the KEY VALUE pairs.
    """
    files = [path for path in (args.dataset_config_file, args.config_file) if path]
    of_files = []
    for path in files:
        inherited, own = split_base(path, read_tree)
        # the first name begins as recipe.settings.BASE
        of_files += [(f"the base of '{path}'", inherited), (f"'{path}'", own)]
    flags = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed,
        "INPUT.TRANSFORMS": args.transforms,
        SENTENCES: args.sentences,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
    }
    sources: list[tuple[str, Mapping[str, object]]] = [
        *((name, with_located_files(keys, TRAINERS.parents[1])) for name, keys in of_files),
        (f"a config for {args.backbone}", prompts_for(args.backbone, args.config_file)),
        (
            "a flag",
            with_located_files(
                {key: value for key, value in flags.items() if value not in (None, "")}, os.getcwd()
            ),
        ),
        # the name is that of recipe.settings.COMMAND_LINE
        ("the command line", with_located_files(read_pairs(args.opts), os.getcwd())),
    ]
    file = [keys[FEATURES] for _, keys in sources if FEATURES in keys][-1:]
    if any(file) and any("MODEL.BACKBONE.NAME" in keys for _, keys in sources[-2:]):
        raise UserError(
            f"A backbone is named, but the features in '{file[0]}' are of one already: leave "
            f"--backbone out, or set {FEATURES} '' to run on images"
        )
    given = {key for _, keys in sources for key, value in keys.items() if value}
    if "TRAINER.NAME" not in given:
        raise UserError("No method is named: give --trainer, such as ALIGN (--help lists all)")
    if "DATASET.NAME" not in given:
        raise UserError(
            "No data set is named: give --dataset-config-file, such as configs/datasets/emoji.yaml"
        )
    return sources


def setup_cfg(args):
    """Return the frozen cfg of a run: defaults of Dassl and of all methods, then its sources."""
    sources = read_sources(args)
    from recipe.settings import build_cfg

    cfg = build_cfg(sources, args.plugin, args.shared)
    cfg.freeze()
    return cfg


def main(args) -> None:
    """Do one run in its folder and write its results."""
    cfg = setup_cfg(args)  # its mistakes are found before PyTorch is imported
    from recipe.run import do_run

    do_run(cfg, args)


def run(argv=None) -> int:
    """Run the command and return its exit code; a user's mistake is printed as one sentence."""
    return exit_code(lambda: main(parse_args(argv)), "error", "-r requirements.txt")


if __name__ == "__main__":
    sys.exit(run())
