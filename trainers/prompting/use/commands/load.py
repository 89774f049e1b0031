"""Loading a run, for the commands that use one."""

import argparse
import io
from collections.abc import Sequence
from contextlib import redirect_stdout

from ...checkpoint.several import refuse_several
from .arguments import Parser, add_plugin, from_one

RUN = "output folder of a run, or hf://USER/REPO[@REVISION][/FOLDER] on the Hugging Face hub"


def run_parser(prog: str, description: str, positional: bool = False) -> Parser:
    """Return the parser of a command, with the options that `load_run` takes."""
    parser = Parser(prog=prog, description=description)
    add = parser.add_argument
    if positional:
        add("model_dir", metavar="RUN", help=RUN)
    else:
        add("--model-dir", required=True, metavar="RUN", help=RUN)
    add("--load-epoch", type=from_one, help="epoch (default: the best if kept, else the last)")
    add("--backbone", help="name or file of the CLIP, if it has moved since the run")
    add_plugin(parser)
    add("--trust-run", action="store_true", help="import the plug-ins that the run names")
    return parser


def load_run(
    args: argparse.Namespace,
    classnames: Sequence[str] | None = None,
    several: bool = False,
    weight: float = 1.0,
):
    """Load the run that the options of `run_parser` name; without `several`, of one label."""
    from ..run import load_run

    with quiet():
        run = load_run(
            args.model_dir, classnames, args.load_epoch, args.backbone, args.plugin,
            args.trust_run, weight,
        )  # fmt: skip
    if run.several and not several:
        refuse_several("This command")
    return run


def quiet() -> redirect_stdout[io.StringIO]:
    """Return a context that hides printed lines."""
    return redirect_stdout(io.StringIO())
