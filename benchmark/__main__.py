"""Entry point of `python -m benchmark COMMAND ...`; `python -m benchmark --help` lists commands."""

import importlib
import sys

from trainers.prompting import __version__
from trainers.prompting.errors import check_name
from trainers.prompting.use import commands

from .cli import command_parser

OF_PLUG_IN = "trainers.prompting"

# The commands besides the protocols, in the order of a day: a module, whose `main(argv)` is
# called, and a summary. A module is imported only when its command is called: some need PyTorch.
RUNS = "Runs"
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    RUNS: {
        "report": ("report.command", "print the tables again from the run folders of an output"),
        "status": ("launch.status", "show which runs are done, running, queued or failed"),
    },
    "Data": {
        "download": ("data.download", "download public data sets into the layout that runs read"),
        "check-data": ("data.check_data", "compare data sets with published counts or accuracies"),
        "features": ("data.encoding", "write files of features, to train on in place of images"),
    },
    "Methods and CLIPs": {
        "measure": ("measure.command", "measure speed, twin or solver"),
        "info": ("inspect.methods", commands.COMMANDS["info"]),
        "check-method": ("inspect.check_method", "check a method of your own for mistakes"),
        "visualize": ("inspect.visualize", "draw where the words of a run of ALIGN go in images"),
        "words": ("inspect.words", "list the words nearest to the learned textual prompts"),
        "emoji": (OF_PLUG_IN, commands.COMMANDS["emoji"]),
    },
    "Your images": {
        name: (OF_PLUG_IN, commands.COMMANDS[name])
        for name in ("advise", "predict", "serve", "export")
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
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
    """Parse the name of the command; --help lists all in that order, the protocols first."""
    groups = {
        title: {name: summary for name, (_, summary) in group.items()}
        for title, group in GROUPS.items()
    }
    groups[RUNS] = protocols | groups[RUNS]
    return command_parser(PROG, f"ALIGN {__version__}", groups).parse_args(argv).command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
