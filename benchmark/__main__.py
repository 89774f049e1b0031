"""`python -m benchmark COMMAND ...`: the one way in; `python -m benchmark --help` lists all."""

import importlib
import sys

from trainers.prompting import __version__
from trainers.prompting.errors import check_name
from trainers.prompting.use import commands

from .cli import command_parser

OF_PLUG_IN = "trainers.prompting"

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
    **{name: (OF_PLUG_IN, summary) for name, summary in commands.COMMANDS.items()},
    "visualize": ("inspect.visualize", "draw token-level transport plans over an image"),
    "words": ("inspect.words", "list the vocabulary words nearest to the learned textual prompts"),
}
PROG = "python -m benchmark"
INSTALL = "-r requirements.txt"


def main(argv: list[str]) -> int:
    """Carry out a command; bad input is one sentence and the exit code that it asks for."""

    def command() -> int:
        from .protocols import PROTOCOLS  # needs PyYAML, which may be missing

        name = parse_command(argv[:1], {p.name: p.summary for p in PROTOCOLS.values()})
        return commands.exit_code(lambda: run_command(name, argv[1:]), f"{PROG} {name}", INSTALL)

    return commands.exit_code(command, PROG, INSTALL)


def run_command(name: str, argv: list[str]) -> int:
    """Exit code of a command or a protocol."""
    from .protocols import PROTOCOLS

    check_name("command", name, [*PROTOCOLS, *COMMANDS])
    if name in PROTOCOLS:
        from .launch.command import launch

        return launch(PROTOCOLS[name], argv)
    place = COMMANDS[name][0]
    if place == OF_PLUG_IN:
        return commands.run_command(name, argv, f"{PROG} {name}", INSTALL)
    return importlib.import_module(f"{__package__}.{place}").main(argv) or 0


def parse_command(argv: list[str], protocols: dict[str, str]) -> str:
    """The name of the command; --help lists all, the protocols first."""
    summaries = protocols | {name: summary for name, (_, summary) in COMMANDS.items()}
    return command_parser(PROG, f"ALIGN {__version__}", summaries).parse_args(argv).command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
