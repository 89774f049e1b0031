"""`python -m benchmark COMMAND ...`: the one way in; `python -m benchmark --help` lists all."""

import argparse
import importlib
import os
import sys

from trainers.prompting import __version__
from trainers.prompting.errors import check_name, printable

from .cli import Parser

# The commands beside the protocols: a module, whose `main(argv)` is called, and what it does. A
# module is imported only when asked for: some need PyTorch.
COMMANDS = {
    "download": ("data.download", "fetch public data sets into the layout that is read"),
    "check-data": ("data.check_data", "compare the data below a root with the published counts"),
    "tune": ("tune.command", "choose settings of methods on validation images"),
    "status": ("launch.status", "tell of each run whether it is done, running, queued or failed"),
    "cost": ("launch.cost", "estimate what the runs of protocols would cost, before any is made"),
    "report": ("report.command", "print the tables again from the folders of an output"),
    "pack": ("pack.pack", "put the records and predictions of an output into one file"),
    "verify": ("pack.verify", "recompute the numbers of such a file from its predictions"),
    "methods": ("inspect.methods", "print the methods as points in one space, with their sizes"),
    "speed": ("measure.speed", "measure time, memory and arithmetic of training and evaluation"),
    "check-device": (
        "measure.check_device",
        "compare kernels, half precision, memory and time with references",
    ),
    "solver": ("measure.solver", "time the transport solver beside that of POT"),
    "predict": ("inspect.predict", "name the classes of images by a trained run"),
    "export": ("inspect.export", "write a trained run for use without this project"),
    "visualize": ("inspect.visualize", "draw token-level transport plans over an image"),
    "words": ("inspect.words", "list the vocabulary words nearest to the learned textual prompts"),
}
PROG = "python -m benchmark"


def main(argv: list[str]) -> int:
    """Carry out a command; bad input is one sentence and the exit code that it asks for."""
    prefix = PROG
    if hasattr(sys.stdout, "reconfigure"):  # names may have letters that a console lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from .protocols import PROTOCOLS  # needs PyYAML, which may be missing

        command = parse_command(argv[:1], {p.name: p.summary for p in PROTOCOLS.values()})
        prefix = f"{PROG} {command}"
        check_name("command", command, [*PROTOCOLS, *COMMANDS])
        if command in PROTOCOLS:
            from .launch.command import launch

            code = launch(PROTOCOLS[command], argv[1:])
        else:
            module = importlib.import_module(f"{__package__}.{COMMANDS[command][0]}")
            code = module.main(argv[1:]) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{prefix}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __package__:
            raise
        wanted = f"{error.name} is missing: `pip install -r requirements.txt` installs it"
        print(f"{prefix}: {wanted}", file=sys.stderr)
        return 2
    except Exception as error:
        refused = getattr(error, "exit_code", None)  # a user's mistake, also one of Dassl's
        if refused is None:
            raise
        print(f"{prefix}: {printable(error)}", file=sys.stderr)
        return refused


def parse_command(argv: list[str], protocols: dict[str, str]) -> str:
    """The name of the command; --help lists all, the protocols first."""
    summaries = protocols | {name: summary for name, (_, summary) in COMMANDS.items()}
    parser = Parser(
        prog=PROG,
        usage="%(prog)s COMMAND ...   (COMMAND --help tells more)",
        epilog="\n".join(f"  {name:23}{summary}" for name, summary in summaries.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ALIGN {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of these:")
    return parser.parse_args(argv).command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
