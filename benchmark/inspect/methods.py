"""Print the methods with M, N and beta, as in the paper's Table 1, and what each one learns."""

import csv
import inspect
import io
import re
import sys

import torch

from trainers.prompting.method import METHODS, Method
from trainers.prompting.plugins import load_plugins
from trainers.prompting.trainer.config import build_method

from ..cli import Parser, add_plugin
from ..measure.geometry import GEOMETRY, class_names, weightless_clip
from ..protocols.configs import CONFIGS, ROOT
from ..report.render import TABLE_STYLES, in_style
from ..report.tables import Cell, Table

SHOTS = 16  # images per class, for methods that train a parameter for each image
HEAD = [
    "Method", "M", "N", "beta", "Coupling", "Length", "Depth", "Learned", "Trained parameters"
]  # fmt: skip
TITLE = "Every method with its defaults, for {}"
CAPTION = (
    "M visual and N textual prompts; beta is the weight of the token level, N/A for methods with "
    "another equation. Length and depth (the number of first blocks with prompts) are given as "
    "text / vision. Learned: the modules that hold what is learned. Parameters are for "
    "{backbone}, two classes and 16 images of each."
)
PAGE = """\
# All methods

Look up a method: its place among the others, its equations, keys, config files and checkpoints.

```bash
python -m benchmark methods  # this table, with your plug-ins
```

The page is made from the classes: `python -m benchmark methods --format page`. The notation is that
of [methods.md](methods.md), which has the equations of methods with M, N and beta. s is the logit
scale, z0 and h0 are features of the untouched CLIP, CE is the mean cross-entropy of the logits, W
the width of an encoder. Blocks are counted from 0 unless a key counts from 1; a block is
x' = x + Attn(LN1 x), out = x' + MLP(LN2 x'). *Published* settings are those of the config files.
"""
SECTION = """
## {method}

{summary}

- Paper: {paper}
- Computed by [`{file}`](../trainers/prompting/methods/{file}){equations}
- Keys of `TRAINER.{node}`, with their defaults: {keys}
- Config files in `configs/trainers/{method}/`: {configs}{text}"""
POINTS = (
    "; equations: [3. Scores](methods.md#3-scores), "
    "[4. The methods as points](methods.md#4-the-methods-as-points)"
)


def build_weightless(method: str, node: dict, backbone: str, classes: int = 2) -> Method:
    """Return a method with room for SHOTS images a class on a backbone, a name in `GEOMETRY`."""
    with torch.device("meta"):
        built = build_method(method, node, weightless_clip(backbone), class_names(classes))
        built.make_room(SHOTS * classes)
    return built


def count_trained(built: Method) -> int:
    """Return the number of a method's trained parameters."""
    return sum(p.numel() for p in built.learned().values() if built.trains)


def row(method: str, backbone: str) -> list[str]:
    """Return the line of a method in the table, with the columns of HEAD."""
    built = build_weightless(method, {}, backbone)
    cells = ["-"] * 6
    if point := getattr(built, "point", None):
        text = built.text_size if point.N else None
        vision = built.vision_size if point.M else None
        b, J = (
            " / ".join(str(getattr(size, name)) if size else "-" for size in (text, vision))
            for name in ("b", "J")
        )
        beta = "N/A" if point.beta is None else f"{point.beta:g}"
        cells = [str(point.M), str(point.N), beta, point.coupling, b, J]
    learned = dict.fromkeys(name.partition(".")[0] for name in built.learned())
    return [method, *cells, ", ".join(learned) or "-", f"{count_trained(built):,}"]


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
    return in_style(
        {None: [Table(TITLE.format(backbone), HEAD, lines, [CAPTION.format(backbone=backbone)])]},
        form,
    )


def page(backbone: str) -> str:
    """Return docs/all_methods.md: the table, then each method with what its docstring says."""
    exact = (ROOT / "docs" / "methods.md").read_text("utf-8")
    table = [HEAD, ["---"] * len(HEAD)]
    sections = []
    for method, made in sorted(METHODS.items()):
        table.append([f"[{method}](#{method.lower()})", *row(method, backbone)[1:]])
        paper = inspect.getdoc(sys.modules[made.__module__]) or ""
        summary, _, text = (inspect.getdoc(made) or "").partition("\n")
        places = {key: made.outside.get(key, key) for key in made.defaults}
        keys = [f"`{places[key]}` {value!r}" for key, value in made.defaults.items()]
        configs = sorted((CONFIGS / "trainers" / method).glob("*.yaml"))
        sections.append(
            SECTION.format(
                method=method,
                summary=summary,
                text=_link_sections(text, exact),
                file=f"{made.__module__.rpartition('.')[2]}.py",
                paper=" ".join(paper.split("\n\n")[:2]),
                equations=POINTS if f"\n| {method} |" in exact else "",
                node=made.node,
                keys=", ".join(keys),
                configs=", ".join(f"`{path.stem}`" for path in configs),
            )
        )
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([PAGE, *lines, "", CAPTION.format(backbone=backbone), *sections])


def _link_sections(text: str, page: str) -> str:
    """Return text of a docstring with links to the sections of docs/methods.md that it cites."""
    anchors = {
        heading.partition(".")[0]: re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (\d+\..+)$", page, re.MULTILINE)
    }
    return re.sub(
        r"docs/methods\.md,\s+section\s+(\d+)",
        lambda match: f"[section {match[1]}](methods.md#{anchors[match[1]]})",
        "\n" + text if text else "",
    )


def main(argv: list[str]) -> int:
    """Run `python -m benchmark methods`."""
    parser = Parser(prog="python -m benchmark methods", description=__doc__)
    parser.add_argument("--backbone", default="ViT-B/16", choices=GEOMETRY)
    parser.add_argument("--format", choices=[*TABLE_STYLES, "csv", "page"], default="text")
    add_plugin(parser)
    args = parser.parse_args(argv)
    load_plugins(args.plugin)
    print(page(args.backbone) if args.format == "page" else render(args.backbone, args.format))
    return 0
