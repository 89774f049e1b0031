"""The table of families of open_clip's architectures, with the methods that run on each."""

import sys
from collections import defaultdict

from trainers.prompting.errors import UserError

from ..report.tables import Cell, Table

HEAD = ["Image", "Text", "Architectures", "Such as", "Methods that run"]
TITLE = "open_clip: sides of its architectures"
NOT_HERE = "-", "-"
CAPTION = (
    "A side is open (image: class token, ResNet, attention, mean, head; text: causal, or both: "
    "positions attend to later ones, too) or closed: used as a whole. Methods are built with their "
    "defaults on the architecture that is named."
)


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
    from trainers.prompting.building.config import methods_on

    rows = []
    for sides, (shown, *more) in families().items():
        run = "their text encoder's config is not on this machine: see `info open_clip:NAME`"
        if sides != NOT_HERE:
            reasons = methods_on(openclip.without_weights(shown))
            names = [name for name, reason in reasons.items() if not reason]
            missing = [name for name, reason in reasons.items() if reason]
            some = f"all but {', '.join(missing)}" if len(missing) < len(names) else ""
            run = (some or ", ".join(names)) if missing else "all"
        rows.append([Cell(text) for text in (*sides, str(1 + len(more)), shown, run)])
    return Table(TITLE, HEAD, rows, [CAPTION])
