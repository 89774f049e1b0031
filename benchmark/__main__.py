"""`python -m benchmark COMMAND ...`: the one way in; `python -m benchmark --help` lists all."""

import argparse
import importlib
import sys

from .errors import BadInput, Parser, check_name

# A command is a module with a `main(argv)`, imported only when asked for: some need PyTorch.
COMMANDS = {
    "base2new": ("launch", "train on base classes, test on base and on new; ends in a table"),
    "report": ("report", "print the tables again from the folders of an output"),
    "methods": ("methods", "print the methods as points in one space, with their sizes"),
    "step": ("step", "count the arithmetic of one training step, its time and memory"),
    "visualize": ("visualize", "draw token-level transport plans over an image"),
    "words": ("words", "list the vocabulary words nearest to the learned textual prompts"),
}


def main(argv: list[str]) -> int:
    """Hand the arguments to the command's module; bad input is one sentence and exit code 2."""
    parser = Parser(
        prog="python -m benchmark",
        usage="%(prog)s COMMAND ...   (COMMAND --help tells more)",
        epilog="\n".join(f"  {name:12}{what}" for name, (_, what) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of these:")
    command = parser.parse_args(argv[:1]).command
    try:
        module, _ = COMMANDS[check_name("command", command, COMMANDS)]
        return importlib.import_module(f"{__package__}.{module}").main(argv[1:]) or 0
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
