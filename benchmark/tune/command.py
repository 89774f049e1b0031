"""The command `python -m benchmark tune`: run a search space, and choose the best settings."""

import sys
from pathlib import Path

from ..launch.command import launch
from ..launch.engine import Engine
from ..protocols.base import Protocol
from ..protocols.space import WORD
from ..protocols.tuning import TUNING
from ..report.render import as_text
from .choice import choices, write_choice
from .validation import check_validation


def main(argv: list[str]) -> int:
    """Run `python -m benchmark tune`; return 0 if a setting was chosen for every method, else 1.

    Raises:
        UserError: something in the arguments does not exist, or contradicts something else.
    """
    words = [
        f"--vary={word}" if WORD.fullmatch(word) and before != "--vary" else word
        for before, word in zip(["", *argv], argv, strict=False)
    ]
    return launch(TUNING, words, conclude, before=check_validation)


def conclude(protocol: Protocol, engine: Engine, output: Path) -> int:
    """Print the tables, and write the chosen settings; return the exit code."""
    chosen = choices(engine.outcomes[run] for run in engine.runs)
    folder = output / protocol.name / engine.runs[0].part / "chosen"
    print("\n\n".join(as_text(choice.table()) for choice in chosen))
    written = [write_choice(choice, folder, engine.settings) for choice in chosen]
    for path in filter(None, written):
        print(path, file=sys.stderr)
    if any(written):
        print(f"Use with --config: one of these files, or {folder} for all", file=sys.stderr)
    return int(not all(written))
