"""`python -m benchmark COMMAND ...`: the one way in; `python -m benchmark --help` lists all."""

import argparse
import importlib
import os
import sys

from .errors import BadInput, Parser, check_name

# A command is the `main(argv)` of a module, or another function of it behind a colon; a module is
# imported only when asked for: some need PyTorch.
COMMANDS = {
    "few_shot": (
        "launch.command:few_shot",
        "train with few images of all classes; ends in a table",
    ),
    "base2new": ("launch.command:base2new", "train on base classes, test on base and on new"),
    "cross_dataset": ("launch.command:cross_dataset", "train on one data set, test on others"),
    "domain_generalization": (
        "launch.command:domain_generalization",
        "train on one data set, test on its classes in other styles",
    ),
    "ablation": ("launch.command:ablation", "ALIGN base-to-new with each beta, and each M and N"),
    "download": ("data.download", "fetch public data sets into the layout that is read"),
    "check-data": ("data.check_data", "compare the data below a root with the published counts"),
    "report": ("report.command", "print the tables again from the folders of an output"),
    "methods": ("inspect.methods", "print the methods as points in one space, with their sizes"),
    "speed": ("measure.speed", "measure time, memory and arithmetic of training and evaluation"),
    "loading": ("measure.loading", "measure the training loader beside the step that it feeds"),
    "solver": ("measure.solver", "time the transport solver beside that of POT"),
    "visualize": ("inspect.visualize", "draw token-level transport plans over an image"),
    "words": ("inspect.words", "list the vocabulary words nearest to the learned textual prompts"),
}


def main(argv: list[str]) -> int:
    """Hand the arguments to the command's module; bad input is one sentence and exit code 2."""
    parser = Parser(
        prog="python -m benchmark",
        usage="%(prog)s COMMAND ...   (COMMAND --help tells more)",
        epilog="\n".join(f"  {name:23}{what}" for name, (_, what) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of these:")
    command = parser.parse_args(argv[:1]).command
    try:
        place, _ = COMMANDS[check_name("command", command, COMMANDS)]
        module, _, function = place.partition(":")
        module = importlib.import_module(f"{__package__}.{module}")
        code = getattr(module, function or "main")(argv[1:]) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BadInput as error:
        print(f"{parser.prog} {command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == __package__:
            raise
        wanted = f"{error.name} is missing: `pip install -r requirements.txt` installs it"
        print(f"{parser.prog} {command}: {wanted}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
