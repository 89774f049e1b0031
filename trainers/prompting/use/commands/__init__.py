"""The command line of the installed package, `promptedclip COMMAND ...`: trained runs, emoji."""

import importlib
import os
import sys
from collections.abc import Callable

from ... import __version__
from ...errors import by_system, check_name, printable
from .arguments import command_parser

PROG = "promptedclip"
# The name of a module here with `main(argv, prog)`, and what the command does.
COMMANDS = {
    "advise": "say which CLIP and method suit your images, and how good they are",
    "predict": "classify images with a trained run",
    "serve": "open a page on this machine to classify images that are dropped on it",
    "export": "write a trained run for use without this project",
    "info": "say what a method, a CLIP or a run is",
    "emoji": "write the embedded emoji as a data set to try another checkout with",
}
BESIDES = (
    "Training, protocols and reports need a checkout of the project:\n"
    "`python -m benchmark --help` lists their commands there."
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; bad input is one sentence on stderr."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> int:
        parser = command_parser(PROG, f"{PROG} {__version__}", {"": COMMANDS}, BESIDES)
        name = check_name("command", parser.parse_args(words[:1]).command, COMMANDS)
        return run_command(name, words[1:], f"{PROG} {name}")

    return exit_code(command, PROG)


def run_command(name: str, argv: list[str], prog: str, install: str = "{}") -> int:
    """Run one of COMMANDS and return its exit code; `prog` and `install` as in `exit_code`."""
    module = importlib.import_module(f"{__name__}.{name}")
    return exit_code(lambda: module.main(argv, prog), prog, install)


def exit_code(work: Callable[[], int | None], prog: str, install: str = "{}") -> int:
    """Run a command and return its exit code, 0 for None; a user's mistake is a sentence on stderr.

    `prog` begins the sentence. If a package is missing, pip must install `install`, in which `{}`
    stands for its name.

    Raises:
        Exception: the error is not the user's.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a console may lack letters of names
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has closed the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "benchmark", __name__.partition(".")[0]):
            raise
        remedy = f"`pip install {install.format(missing)}` installs it"
        print(f"{prog}: {missing} is missing: {remedy}", file=sys.stderr)
        return 2
    except Exception as error:
        cause = by_system(error) or error
        refused = getattr(cause, "exit_code", None)  # a user's mistake, also one of Dassl's
        if refused is None:
            raise
        print(f"{prog}: {printable(cause)}", file=sys.stderr)
        return refused
