"""Print the methods with M, N and beta, as in the paper's Table 1, and what each one learns."""

import csv
import inspect
import io
import sys

import torch

from trainers.prompting.method import METHODS, Method, find_method
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

Look up a method: its place among the others, its paper and its file.

```bash
python -m benchmark methods  # this table, with your plug-ins
python -m benchmark methods CoPrompt  # equations, keys with defaults, published settings
```

Below this table the site has what the class of each method says. The page is made from the classes:
`python -m benchmark methods --format page`. The notation is that of [methods.md](methods.md), which
has the equations of methods with M, N and beta. s is the logit scale, z0 and h0 are features of the
untouched CLIP, CE is the mean cross-entropy of the logits, W the width of an encoder. Blocks are
counted from 0 unless a key counts from 1; a block is x' = x + Attn(LN1 x), out = x' + MLP(LN2 x').
*Published* settings are those of the config files.
"""
SECTION = """
## {method}

{summary} {paper} Computed by [`{file}`](../trainers/prompting/methods/{file}){equations}."""
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
    """Return docs/all_methods.md: the table, then a line on each method."""
    exact = (ROOT / "docs" / "methods.md").read_text("utf-8")
    table = [HEAD, ["---"] * len(HEAD)]
    sections = []
    for method, kind in sorted(METHODS.items()):
        table.append([f"[{method}](#{method.lower()})", *row(method, backbone)[1:]])
        sections.append(
            SECTION.format(
                method=method,
                summary=(inspect.getdoc(kind) or "").partition("\n")[0],
                file=f"{kind.__module__.rpartition('.')[2]}.py",
                paper=_paper(kind),
                equations=POINTS if f"\n| {method} |" in exact else "",
            )
        )
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([PAGE, *lines, "", CAPTION.format(backbone=backbone), *sections])


def describe(method: str) -> str:
    """Return what is known of a method: its docstring, paper, keys with defaults, config files."""
    kind = find_method(method)
    text = inspect.getdoc(kind) or ""
    keys = [f"  {kind.place(key)} {value!r}" for key, value in kind.defaults.items()]
    configs = sorted((CONFIGS / "trainers" / method).glob("*.yaml"))
    names = ", ".join(path.stem for path in configs) or "none"
    return "\n".join(
        [method, "", text, "", _paper(kind), f"File: {inspect.getsourcefile(kind)}"]
        + [
            "Keys, with their defaults:",
            *keys,
            f"Config files in configs/trainers/{method}: {names}",
        ]
    )


def _paper(kind: type[Method]) -> str:
    text = inspect.getdoc(sys.modules[kind.__module__]) or ""
    return " ".join(" ".join(text.split("\n\n")[:2]).split())


def main(argv: list[str]) -> int:
    """Run `python -m benchmark methods`."""
    parser = Parser(prog="python -m benchmark methods", description=__doc__)
    parser.add_argument("method", metavar="METHOD", nargs="?", help="tell about one method")
    parser.add_argument("--backbone", default="ViT-B/16", choices=GEOMETRY)
    parser.add_argument("--format", choices=[*TABLE_STYLES, "csv", "page"], default="text")
    add_plugin(parser)
    args = parser.parse_args(argv)
    load_plugins(args.plugin)
    if args.method:
        print(describe(args.method))
        return 0
    print(page(args.backbone) if args.format == "page" else render(args.backbone, args.format))
    return 0
