"""The command `python -m benchmark tune`: choose among settings by runs on validation images."""

import sys
from pathlib import Path

from trainers.prompting.errors import UserError

from ..cli import Parser
from ..protocols.places import find
from ..report.render import as_text
from .choice import choices_among, write_choice


def main(argv: list[str]) -> int:
    """Run `python -m benchmark tune OUTPUT`; return 1 if no setting of a method can be chosen."""
    parser = Parser(
        prog="python -m benchmark tune",
        description="Choose the best settings among the runs of --vary with TEST.SPLIT val. "
        "scripts/tune.sh does these, and calls this.",
    )
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("output/tune"),
        help="output folder of the runs (default: %(default)s)",
    )  # fmt: skip
    output = parser.parse_args(argv).output.absolute()
    found = find(output)
    for note in found.notes:
        print(note, file=sys.stderr)
    chosen = [(choice, at) for at, runs in found.runs.items() for choice in choices_among(runs)]
    if not chosen:
        raise UserError(
            f"'{output}' has no runs of --vary on validation images: do some with "
            "`bash scripts/tune.sh`, or add TEST.SPLIT val to a protocol"
        )
    print("\n\n".join(as_text(choice.table()) for choice, _ in chosen))
    written = [write_choice(*one) for one in chosen]
    for path in filter(None, written):
        print(path, file=sys.stderr)
    if first := next(filter(None, written), None):
        folder = first.parent.parent
        print(f"Use with --config: one of these files, or {folder} for all", file=sys.stderr)
    return int(not all(written))
