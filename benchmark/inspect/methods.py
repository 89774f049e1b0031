"""`info`: a table of the methods with M, N and beta, as in the paper's Table 1."""

import inspect
import os
from pathlib import Path

import torch

from trainers.prompting.building.build import build_method
from trainers.prompting.capabilities.per_class import make_room
from trainers.prompting.method import METHODS, Method
from trainers.prompting.plugins import load_plugins
from trainers.prompting.use.commands import info

from ..measure.geometry import GEOMETRY, class_names, weightless_clip
from ..protocols.configs import CONFIGS
from ..report.render import in_style
from ..report.table import Cell, Table

# Kinds of methods, by what is learned; all others, of plug-ins, are OTHERS.
KINDS = {
    "No training": ("ZeroshotCLIP",),
    "Textual prompts": (
        "CoOp", "CoCoOp", "KgCoOp", "ProGrad", "TCP", "BiomedCoOp", "NLPrompt",
    ),
    "Visual prompts": ("VPT",),
    "Prompts on both sides": (
        "IVLP", "MaPLe", "UPT", "PromptSRC", "CoPrompt", "HiCroPL", "PromptKD",
    ),
    "Optimal transport": ("PLOT", "PLOTPP", "ALIGN", "MMP"),
    "Inside blocks": (
        "CLIPLoRA", "CLIPSVD", "MultiModalAdapter", "MMAPP", "MMRL", "MMRLpp", "LNOnly", "TwoSFS",
        "SkipTuning", "AWTFewShot",
    ),
    "Local features": ("GalLoP", "SOTGLP", "LoCoOp", "TextRefiner"),
    "Several labels": ("DualCoOp", "RAM", "TaIDPT", "SPARC"),
    "On features": (
        "TaskRes", "CLIPAdapter", "TipAdapter", "TipAdapterF", "CLAP", "CrossModal", "GDA",
        "LinearProbe", "LPPlusPlus", "ProLIP",
    ),
    "At test time": (
        "TPT", "TDA", "BoostAdapter", "DPE", "MTA", "ZERO", "AWT", "TPS", "CTPT", "OTPT",
        "TransCLIP", "StatA", "TTC", "RTPT",
    ),
}  # fmt: skip
OTHERS = "Plug-ins"
SHOTS = 16  # images per class, for methods that train a parameter for each image
HEAD = [
    "Method", "M", "N", "beta", "Coupling", "Length", "Depth", "Learned", "Trained parameters"
]  # fmt: skip
TITLE = "Every method with its defaults, for {}"
CAPTION = (
    "M visual and N textual prompts; beta is the weight of the token level, N/A for methods with "
    "another equation. Length and depth (the number of first blocks with prompts) are given as "
    "text / vision. Parameters are for {backbone}, two classes and 16 images of each."
)
PAGE = """\
# All methods

Look up a method, by kind: what it does, its paper and its file. The terminal shows more:

```bash
python -m benchmark info CoPrompt  # equations, keys with defaults, published settings
python -m benchmark info           # all methods in one table, with your plug-ins
```

The site also has what the first prints, below each method. The page is made from the classes:
`python -m benchmark info --style page`.

These methods differ in the numbers of their prompts and in how prompts are coupled and compared
([equations](methods.md)):
"""
NOTATION = """
In what the classes say, s is the logit scale, z0 and h0 are features of the untouched CLIP, CE is
the mean cross-entropy of the logits, W the width of an encoder. Blocks are counted from 0 unless a
key counts from 1; a block is x' = x + Attn(LN1 x), out = x' + MLP(LN2 x'). *Published* settings are
those of the config files."""
SECTION = """
### {method}

{summary} {paper}{trained} In [`{file}`](../trainers/prompting/methods/{file})."""


def build_weightless(method: str, node: dict, backbone: str, classes: int = 2) -> Method:
    """Return a method with room for SHOTS images a class on a backbone, a name in `GEOMETRY`."""
    with torch.device("meta"):
        built = build_method(method, node, weightless_clip(backbone), class_names(classes))
        make_room(built, SHOTS * classes)
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


def render(backbone: str) -> str:
    """Return the table as text."""
    lines = [list(map(Cell, row(method, backbone))) for method in METHODS]
    caption = [CAPTION.format(backbone=backbone)]
    return in_style([Table(TITLE.format(backbone), HEAD, lines, caption)], "text")


def page(backbone: str) -> str:
    """Return docs/all_methods.md: a table of points, then a line on each method, by kind."""
    table, sections = [HEAD[:7], ["---"] * 7], {}
    for method, kind in sorted(METHODS.items()):
        _, *point, _, count = row(method, backbone)
        if point[0] != "-":
            table.append([f"[{method}](#{method.lower()})", *(x.replace(" ", "") for x in point)])
        sections[method] = SECTION.format(
            method=method,
            summary=(inspect.getdoc(kind) or "").partition("\n")[0],
            file=f"{kind.__module__.rpartition('.')[2]}.py",
            paper=info.paper(kind),
            trained=f" {count} trained parameters." * (count != "0"),
        )
    of_kinds = {title: [sections.pop(name) for name in names] for title, names in KINDS.items()}
    texts = []
    for title, of_kind in {**of_kinds, OTHERS: [*sections.values()]}.items():
        texts += [f"\n## {title}", *of_kind] * bool(of_kind)
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([PAGE, *lines, "", CAPTION.format(backbone=backbone), NOTATION, *texts])


def main(argv: list[str]) -> int:
    """Run `python -m benchmark info`: without a name, the table of all methods."""
    parser = info.build_parser("python -m benchmark info")
    parser.epilog = "Without a name: all methods as points in one space, with their sizes."
    add = parser.add_argument_group("the table of methods").add_argument
    add("--backbone", default="ViT-B/16", choices=GEOMETRY, help="its CLIP")
    add("--style", choices=["text", "page"], default="text", help="page is docs/all_methods.md")
    args = parser.parse_args(argv)
    load_plugins(args.plugin)
    if args.name:
        info.show(args)
        if args.name in METHODS:
            beside = Path(inspect.getfile(METHODS[args.name])).parent / args.name  # of a plug-in
            folder = beside if beside.is_dir() else CONFIGS / "trainers" / args.name
            names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
            print(f"Config files in {os.path.relpath(folder)}: {names}")
    else:
        print(page(args.backbone) if args.style == "page" else render(args.backbone))
    return 0
