"""Entry point of `python -m benchmark COMMAND ...`; `python -m benchmark --help` lists commands."""

import importlib
import sys

from trainers.prompting import __version__
from trainers.prompting.errors import check_name
from trainers.prompting.use import commands

from .cli import command_parser

OF_PLUG_IN = "trainers.prompting"

# The commands besides the protocols: a module, whose `main(argv)` is called, and a summary. A
# module is imported only when its command is called: some need PyTorch.
COMMANDS = {
    "download": ("data.download", "download public data sets into the layout that runs read"),
    "check-data": ("data.check_data", "compare data sets with published counts or accuracies"),
    "features": ("data.encoding", "write files of features, which methods take in place of images"),
    "tune": (
        "tune.command",
        "choose among settings, by runs on validation images",
    ),
    "status": ("launch.status", "show for each run whether it is done, running, queued or failed"),
    "report": ("report.command", "print the tables again from the run folders of an output"),
    "backbones": ("inspect.backbones", "print which methods run on which CLIPs, or on one"),
    "methods": ("inspect.methods", "print the methods as points in one space, with their sizes"),
    "check-method": ("inspect.check_method", "check a method of your own for mistakes"),
    "check-advice": ("measure.advice", "measure on labelled features whether advice is right"),
    "speed": ("measure.speed", "measure time, memory and operations of training and evaluation"),
    "twin": ("measure.twin", "compare whole trainings with those of published code"),
    "solver": ("measure.solver", "time the transport solver against POT's"),
    **{name: (OF_PLUG_IN, summary) for name, summary in commands.COMMANDS.items()},
    "visualize": ("inspect.visualize", "draw what a run sees in images, or all test images"),
    "words": ("inspect.words", "list the vocabulary words nearest to the learned textual prompts"),
}
PROG = "python -m benchmark"
INSTALL = "-r requirements.txt"


def main(argv: list[str]) -> int:
    """Run a command and return its exit code; a user's mistake is reported in one sentence."""

    def command() -> int:
        from .protocols import PROTOCOLS  # needs PyYAML, which may be missing

        name = parse_command(argv[:1], {p.name: p.summary for p in PROTOCOLS.values()})
        return commands.exit_code(lambda: run_command(name, argv[1:]), f"{PROG} {name}", INSTALL)

    return commands.exit_code(command, PROG, INSTALL)


def run_command(name: str, argv: list[str]) -> int:
    """Run a command or protocol by its name and return its exit code."""
    from .protocols import PROTOCOLS

    check_name("command", name, [*PROTOCOLS, *COMMANDS])
    if name in PROTOCOLS:
        from .launch.command import launch

        return launch(PROTOCOLS[name], argv, end_in_table)
    place = COMMANDS[name][0]
    if place == OF_PLUG_IN:
        return commands.run_command(name, argv, f"{PROG} {name}", INSTALL)
    return importlib.import_module(f"{__package__}.{place}").main(argv) or 0


def end_in_table(*ended) -> int:
    """Print the table of the runs that a launcher has done; return the exit code."""
    from .report import command  # slow to import

    return command.end_in_table(*ended)


def parse_command(argv: list[str], protocols: dict[str, str]) -> str:
    """Parse the name of the command; --help lists all, the protocols first."""
    summaries = protocols | {name: summary for name, (_, summary) in COMMANDS.items()}
    return command_parser(PROG, f"ALIGN {__version__}", summaries).parse_args(argv).command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
