"""Print the methods as points in one space, as in the paper's Table 1, made from their specs."""

import csv
import io

import torch

from trainers.prompting.method import METHODS, Method
from trainers.prompting.plugins import load_plugins
from trainers.prompting.trainer.config import build_method

from ..cli import Parser, add_plugin
from ..measure.geometry import GEOMETRY, class_names, weightless_clip
from ..report.render import TABLE_STYLES, in_style
from ..report.tables import Cell, Table

SHOTS = 16  # images per class, for methods that train a parameter for each image
HEAD = ["Method", "M", "N", "beta", "Coupling", "Score", "Length", "Depth", "Trained parameters"]
TITLE = "Every method with its defaults, for {}"
CAPTION = (
    "M visual and N textual prompts; beta weighs the token level; lengths and depths are text / "
    "vision (their prompts in the first blocks). Of two classes with 16 images each."
)


def trained_parameters(
    method: str, node: dict, backbone: str = "ViT-B/16", classes: int = 2
) -> int:
    """Return the number of a method's trained parameters on a backbone; no weights are loaded.

    Args:
        method: name of the method.
        node: its settings, as `build_method` takes them.
        backbone: a name in `GEOMETRY`.
        classes: their number; it matters for class-specific contexts, for prototypes, and for
            methods that train a parameter for each of SHOTS images per class.
    """
    return _trained(_built(method, node, backbone, classes))


def _built(method: str, node: dict, backbone: str, classes: int = 2) -> Method:
    with torch.device("meta"):
        built = build_method(method, node, weightless_clip(backbone), class_names(classes))
        built.make_room(SHOTS * classes)
    return built


def _trained(built: Method) -> int:
    return sum(p.numel() for p in built.model.trained().parameters())


def row(method: str, backbone: str) -> list[str]:
    """Return the line of a method in the table, with the columns of HEAD."""
    built = _built(method, {}, backbone)
    spec = built.model.spec

    def sides(text: int, vision: int) -> str:
        return f"{text if spec.N else '-'} / {vision if spec.M else '-'}"

    return [
        method,
        str(spec.M),
        str(spec.N),
        "-" if spec.score == "plot" else f"{spec.beta:g}",
        spec.coupling,
        spec.score,
        sides(spec.text_length, spec.vision_length),
        sides(spec.text_depth, spec.vision_depth),
        f"{_trained(built):,}",
    ]


def render(backbone: str, form: str) -> str:
    """Return the table in one of TABLE_STYLES, or as comma-separated values."""
    rows = [row(method, backbone) for method in METHODS]
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows([*cells, count.replace(",", "")] for *cells, count in rows)
        return text.getvalue().rstrip("\n")
    lines = [list(map(Cell, line)) for line in rows]
    return in_style({None: [Table(TITLE.format(backbone), HEAD, lines, [CAPTION])]}, form)


def main(argv: list[str]) -> int:
    """Run `python -m benchmark methods`."""
    parser = Parser(prog="python -m benchmark methods", description=__doc__)
    parser.add_argument("--backbone", default="ViT-B/16", choices=GEOMETRY)
    parser.add_argument("--format", choices=[*TABLE_STYLES, "csv"], default="text")
    add_plugin(parser)
    args = parser.parse_args(argv)
    load_plugins(args.plugin)
    print(render(args.backbone, args.format))
    return 0
