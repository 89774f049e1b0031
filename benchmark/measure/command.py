"""`python -m benchmark measure`: what is measured of the code itself, by the name after it."""

from importlib import import_module

from trainers.prompting import __version__
from trainers.prompting.errors import check_name
from trainers.prompting.use.commands import exit_code

from ..cli import command_parser

PROG = "python -m benchmark measure"
MEASURES = {
    "speed": "time, memory and operations of training and evaluation",
    "twin": "whole trainings, compared with those of published code",
    "solver": "the time of the transport solver, and of POT's",
}


def main(argv: list[str]) -> int:
    """Run one of MEASURES and return its exit code."""
    parser = command_parser(PROG, f"ALIGN {__version__}", {"": MEASURES})
    name = check_name("measurement", parser.parse_args(argv[:1]).command, MEASURES)

    def measure() -> int:
        return import_module(f".{name}", __package__).main(argv[1:]) or 0

    return exit_code(measure, f"{PROG} {name}", "-r requirements.txt")
