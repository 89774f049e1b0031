"""Print which methods run on which families of CLIPs, and check a single CLIP."""

import sys
from collections import defaultdict
from typing import Any

from trainers.prompting.errors import UserError

from ..cli import Parser, add_plugin
from ..report.render import TABLE_STYLES, in_style
from ..report.tables import Cell, Table

HEAD = ["Image", "Text", "Architectures", "Such as", "Methods that run"]
TITLE = "open_clip: sides of its architectures"
NOT_HERE = "-", "-"
CAPTION = (
    "A side is open (image: class token, ResNet, attention, mean, head; text: causal, or both: "
    "positions attend to later ones, too) or closed: used as a whole. Methods are built with their "
    "defaults on the architecture that is named."
)


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(prog="python -m benchmark backbones", description=__doc__)
    parser.add_argument("--check", metavar="NAME", help="a CLIP or an architecture of open_clip")
    parser.add_argument("--format", choices=TABLE_STYLES, default="text", help="of the table")
    add_plugin(parser)
    args = parser.parse_args(argv)
    from trainers.prompting.plugins import load_plugins

    load_plugins(args.plugin)
    if args.check:
        print("\n".join(check_lines(args.check)))
        return 0
    print(in_style({TITLE: [families_table()]}, args.format))
    return 0


def check_lines(name: str) -> list[str]:
    """Return lines on which methods run on a CLIP.

    Args:
        name: as `--backbone` takes it, or `open_clip:ARCHITECTURE`, whose weights and tokenizer
            need not be on this machine.

    Raises:
        UserError: there is no such CLIP.
    """
    from trainers.prompting import load_clip
    from trainers.prompting.backbones import openclip
    from trainers.prompting.encoders.sides import is_closed
    from trainers.prompting.trainer.config import methods_on

    architecture = name.removeprefix(openclip.PREFIX)
    if name.startswith(openclip.PREFIX) and "/" not in architecture:
        clip_model: Any = openclip.without_weights(architecture)
    else:
        clip_model = load_clip(name)
    reasons = methods_on(clip_model)
    run = [method for method, reason in reasons.items() if not reason]
    closed = [side for side in ("image", "text") if is_closed(clip_model, side)]
    lines = [f"{name}: {' and '.join(closed) or 'no'} side closed", f"Run: {', '.join(run)}"]
    groups = defaultdict(list)
    for method, reason in reasons.items():
        groups[reason].append(method)
    return lines + [
        f"{', '.join(methods)}: {reason}" for reason, methods in groups.items() if reason
    ]


def families() -> dict[tuple[str, str], list[str]]:
    """Return the architectures of open_clip by the `kinds` of their sides, as they are built.

    Those whose text encoder has its config on the hub only are under `NOT_HERE`.
    """
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            "The table is of open_clip's architectures: run `pip install open_clip_torch`"
        ) from error
    from trainers.prompting.backbones import openclip
    from trainers.prompting.encoders.sides import kinds

    by_sides = defaultdict(list)
    for arch in open_clip.list_models():
        print(f"{arch} ...", file=sys.stderr)
        try:
            sides = kinds(openclip.without_weights(arch))
        except UserError:
            sides = NOT_HERE
        by_sides[sides].append(arch)
    return dict(sorted(by_sides.items()))


def families_table() -> Table:
    """Return the table of families."""
    from trainers.prompting.backbones import openclip
    from trainers.prompting.trainer.config import methods_on

    rows = []
    for sides, (shown, *more) in families().items():
        run = "their text encoder's config is not on this machine: see --check"
        if sides != NOT_HERE:
            reasons = methods_on(openclip.without_weights(shown))
            names = [name for name, reason in reasons.items() if not reason]
            missing = [name for name, reason in reasons.items() if reason]
            some = f"all but {', '.join(missing)}" if len(missing) < len(names) else ""
            run = (some or ", ".join(names)) if missing else "all"
        rows.append([Cell(text) for text in (*sides, str(1 + len(more)), shown, run)])
    return Table(TITLE, HEAD, rows, [CAPTION])
