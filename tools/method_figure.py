"""Draw the figure of the method on the first page: docs/method.svg and docs/method_dark.svg.

The letters are those of docs/methods.md. Both plans are real solutions, for invented costs.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from trainers.prompting import sinkhorn

from . import run

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH, HEIGHT = 9.3, 4.5  # inches, and the units of all positions
PALETTES = {
    "method": {
        "ground": "#ffffff", "card": "#f6f8fa", "line": "#c4ccd4", "ink": "#1f2328",
        "quiet": "#59636e", "image": "#0969da", "text": "#bc4c00", "plan": "#8250df",
    },
    "method_dark": {
        "ground": "#0d1117", "card": "#161b22", "line": "#3d444d", "ink": "#e6edf3",
        "quiet": "#9da7b1", "image": "#58a6ff", "text": "#f0883e", "plan": "#bc8cff",
    },
}  # fmt: skip
COUNT = 4  # prompts of a side: M = N = 4
GRID = 4  # patches of a side of the image
BIRD = [5, 6, 9, 10]  # the patches that show it
SHOWN = [1, *BIRD, 14]  # patches in the plan of the token level
WORDS = ("", "", "of", "a", "bird")  # b = 2 learned ones first


class Sheet:
    """A figure in the colours of a palette; positions are in inches from the lower left."""

    def __init__(self, palette: dict[str, str]):
        self.colours = palette
        self.figure = Figure(figsize=(WIDTH, HEIGHT))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.axes.axis("off")

    def box(self, x: float, y: float, width: float, height: float, fill="card", edge="line", **kw):
        """Draw a rectangle with round corners; `fill` and `edge` are names of the palette."""
        style = f"round,pad=0,rounding_size={kw.pop('radius', 0.06)}"
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle=style, facecolor=self.colours.get(fill, fill),
                edgecolor=self.colours.get(edge, edge), linewidth=kw.pop("linewidth", 1), **kw,
            )
        )  # fmt: skip

    def words(self, x: float, y: float, text: str, colour="ink", size=9.0, **kw):
        """Write text, centred at a point unless `ha` says otherwise."""
        kw = {"ha": "center", "va": "center"} | kw
        self.axes.text(x, y, text, color=self.colours[colour], fontsize=size, **kw)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour="quiet"):
        """Draw an arrow from a point to another."""
        self.axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1.1, shrinkA=0,
                shrinkB=0, color=self.colours[colour],
            )
        )  # fmt: skip


def plans() -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the plans of both levels, (P, words) and (M, N)."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.rand(GRID * GRID, len(WORDS), generator=generator)
    tokens[BIRD, -1] /= 4
    prompts = torch.rand(COUNT, COUNT, generator=generator)

    def solve(cost: torch.Tensor) -> torch.Tensor:
        a, b = (torch.full((size,), 1 / size) for size in cost.shape)
        return sinkhorn(cost, a, b, reg=0.15).plan

    return solve(tokens), solve(prompts)


def draw_bird(sheet: Sheet, x: float, y: float, size: float) -> None:
    """Draw the image: a bird, with the grid of its patches."""
    axes, unit = sheet.axes, size / 100
    frame = Rectangle((x, y), size, size, facecolor="#bfe3f5", edgecolor="none")
    axes.add_patch(frame)
    shapes = [
        Rectangle((x, y), size, 22 * unit, facecolor="#8cc084"),
        Polygon([(x + 8 * unit, y + 62 * unit), (x + 34 * unit, y + 56 * unit),
                 (x + 30 * unit, y + 38 * unit)], facecolor="#b5533c"),
        Ellipse((x + 50 * unit, y + 46 * unit), 52 * unit, 36 * unit, facecolor="#d9694a"),
        Ellipse((x + 44 * unit, y + 49 * unit), 30 * unit, 17 * unit, facecolor="#b5533c"),
        Circle((x + 70 * unit, y + 64 * unit), 13 * unit, facecolor="#d9694a"),
        Polygon([(x + 82 * unit, y + 68 * unit), (x + 82 * unit, y + 59 * unit),
                 (x + 94 * unit, y + 62 * unit)], facecolor="#f2b134"),
        Circle((x + 73 * unit, y + 67 * unit), 2.6 * unit, facecolor="#222222"),
    ]  # fmt: skip
    for foot in (46, 56):
        axes.plot([x + foot * unit] * 2, [y + 14 * unit, y + 29 * unit], color="#7a5a3a", lw=1.4)
    for shape in shapes:
        shape.set_edgecolor("none")
        shape.set_clip_path(frame)
        axes.add_patch(shape)
    for line in range(1, GRID):
        at = line * size / GRID
        axes.plot([x, x + size], [y + at] * 2, color="white", lw=0.9, alpha=0.85)
        axes.plot([x + at] * 2, [y, y + size], color="white", lw=0.9, alpha=0.85)


def draw_inputs(sheet: Sheet) -> None:
    """Draw image and class, at the left."""
    draw_bird(sheet, 0.1, 2.42, 1.1)
    sheet.words(0.65, 3.7, r"image $x_j$", size=10)
    sheet.box(0.1, 0.85, 1.1, 0.48)
    sheet.words(0.65, 1.09, "bird", size=10.5, family="monospace")
    sheet.words(0.65, 1.5, r"class $k$", size=10)


def draw_side(
    sheet: Sheet, y: float, side: str, title: str, cells: list[tuple[str, float]]
) -> None:
    """Draw the prompts of a side: a stack of cards, with the tokens of the first one.

    A token is its text, empty for a patch and `*` for a learned one, and its width.
    """
    x, height = 1.55, 0.9
    for step in reversed(range(COUNT)):
        shift = 0.06 * step
        sheet.box(x + shift, y + shift, 2.25, height, edge="line" if step else side)
    sheet.words(x + 0.1, y + 0.73, title, side, 9.5, ha="left", weight="bold")
    sheet.words(x + 0.1, y + 0.15, r"frozen CLIP, $b$ learned tokens", "quiet", 8.5, ha="left")
    sheet.arrow((1.25, y + 0.43), (x - 0.04, y + 0.43))
    at = x + 0.1
    for text, width in cells:
        learned = text == "*"
        fill = side if learned else "ground"
        sheet.box(at, y + 0.3, width, 0.27, fill=fill, edge=side, radius=0.03, linewidth=0.9)
        if text and not learned:
            sheet.words(at + width / 2, y + 0.43, text, size=8)
        at += width + 0.04


def draw_patch(sheet: Sheet, x: float, y: float, size: float, patch: int) -> None:
    """Draw a patch, cut out of the image."""
    row, column = divmod(patch, GRID)
    frame = Rectangle((x, y), size, size, facecolor="none", edgecolor=sheet.colours["line"], lw=0.8)
    sheet.axes.add_patch(frame)
    before = len(sheet.axes.patches), len(sheet.axes.lines)
    draw_bird(sheet, x - column * size, y - (GRID - 1 - row) * size, GRID * size)
    for shape in [*sheet.axes.patches[before[0] :], *sheet.axes.lines[before[1] :]]:
        shape.set_clip_path(frame)


def draw_token_level(sheet: Sheet, plan: torch.Tensor) -> None:
    """Draw the token level: patches, words and the plan between them."""
    x, y, width, height = 4.3, 0.45, 2.1, 3.5
    middle, cell, left, top = x + width / 2, 0.25, x + 0.72, y + 2.6
    sheet.box(x, y, width, height)
    sheet.words(middle, y + 3.3, "token level", "plan", 10.5, weight="bold")
    for column, word in enumerate(WORDS):
        at = left + (column + 0.5) * cell
        if word:
            sheet.words(at - 0.04, top + 0.05, word, size=8, rotation=40, ha="left", va="bottom")
        else:
            sheet.box(at - 0.06, top + 0.06, 0.12, 0.12, "text", "text", radius=0.02)
    for row, patch in enumerate(SHOWN):
        low = top - (row + 1) * cell
        draw_patch(sheet, left - 0.28, low + 0.02, cell - 0.04, patch)
        for column, share in enumerate(plan[patch] / plan[SHOWN].max()):
            sheet.axes.add_patch(
                Rectangle(
                    (left + column * cell, low), cell, cell, linewidth=0.6,
                    facecolor=(*to_rgb(sheet.colours["plan"]), float(share)),
                    edgecolor=sheet.colours["line"],
                )
            )  # fmt: skip
    sheet.words(x + 0.22, top - 3 * cell, r"patches $r_j^m[p]$", "image", 9.5, rotation=90)
    sheet.words(left + 2.5 * cell, top - 6 * cell - 0.16, r"plan $\hat{T}$", "plan", 9.5)
    sheet.words(left + 2.5 * cell, y + 2.98, r"words $s_k^n[l]$", "text", 9.5)
    sheet.words(middle, y + 0.52, r"$\hat{C}[p,l] = 1 - \cos(r_j^m[p], s_k^n[l])$", size=8.6)
    sheet.words(middle, y + 0.2, r"$\hat{d}[m,n] = \langle \hat{T}, \hat{C} \rangle$", size=10)


def draw_prompt_level(sheet: Sheet, plan: torch.Tensor) -> None:
    """Draw the prompt level: prompts of both sides, the plan between them, and the score."""
    x, y, width, height = 6.75, 0.45, 2.45, 3.5
    middle, left, right = x + width / 2, x + 0.65, x + width - 0.65
    sheet.box(x, y, width, height)
    sheet.words(middle, y + 3.3, "prompt level", "plan", 10.5, weight="bold")
    heights = [y + 2.86 - 0.35 * i for i in range(COUNT)]
    for m, start in enumerate(heights):
        for n, end in enumerate(heights):
            share = float(plan[m, n] / plan.max())
            sheet.axes.plot(
                [left, right], [start, end], color=sheet.colours["plan"], lw=0.4 + 3 * share,
                alpha=0.25 + 0.75 * share, zorder=1,
            )  # fmt: skip
    for i, at in enumerate(heights, 1):
        for place, side, name in ((left, "image", "z_j"), (right, "text", "h_k")):
            sheet.axes.add_patch(Circle((place, at), 0.08, color=sheet.colours[side], zorder=3))
            outwards = -0.28 if side == "image" else 0.28
            sheet.words(place + outwards, at, rf"${name}^{i}$", side, 10)
    sheet.words(middle, heights[-1] - 0.28, r"plan $T$", "plan", 9.5)
    cost = r"$C[m,n] = 1 - \cos(z_j^m, h_k^n) + \beta\,\hat{d}[m,n]$"
    sheet.words(middle, y + 0.92, cost, size=8.6)
    sheet.box(x + 0.12, y + 0.16, width - 0.24, 0.46, fill="ground", edge="plan")
    score = r"$\mathrm{logits}_{jk} = \mathrm{scale}\,(1 - \langle T, C \rangle)$"
    sheet.words(middle, y + 0.39, score, size=9.5)


def draw_features(sheet: Sheet) -> None:
    """Draw arrows from the encoders to the levels, and from one level to the other."""
    for side, y, (start, rail, end), name, at in (
        ("image", 2.95, (3.55, 4.2, 3.99), "$z_j^m$", 4.34),
        ("text", 1.2, (0.62, 0.22, 0.41), "$h_k^n$", 0.1),
    ):
        sheet.arrow((4.02, y), (4.26, y), side)
        sheet.axes.plot([2.65, 2.65, 7.97], [start, rail, rail], color=sheet.colours[side], lw=1.1)
        sheet.arrow((7.97, rail), (7.97, end), side)
        sheet.words(2.75, at, name, side, 9.5, ha="left")
    sheet.arrow((6.42, 1.0), (6.71, 1.0), "plan")
    sheet.words(6.57, 1.2, r"$\hat{d}$", "plan", 10)


def draw(palette: dict[str, str]) -> Figure:
    """Draw the whole figure in the colours of a palette."""
    sheet = Sheet(palette)
    draw_inputs(sheet)
    image = [("CLS", 0.38), *[("", 0.12)] * 6, ("*", 0.17), ("*", 0.17)]
    draw_side(sheet, 2.45, "image", r"$M$ visual prompts", image)
    text = [("*", 0.17)] * 2 + [("of", 0.27), ("a", 0.2), ("bird", 0.42), (".", 0.14), ("EOS", 0.4)]
    draw_side(sheet, 0.65, "text", r"$N$ textual prompts", text)
    sheet.arrow((2.05, 1.78), (2.05, 2.41), "quiet")
    sheet.words(2.15, 2.1, "projected at $J$ depths", "quiet", 8.5, ha="left")
    tokens, prompts = plans()
    draw_token_level(sheet, tokens)
    draw_prompt_level(sheet, prompts)
    draw_features(sheet)
    return sheet.figure


def main(argv: list[str]) -> None:
    """Run `python -m tools.method_figure [--output FOLDER] [--format svg]`."""
    parser = argparse.ArgumentParser(prog="python -m tools.method_figure", description=__doc__)
    parser.add_argument("--output", type=Path, default=DOCS, help="folder (default: docs)")
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    args = parser.parse_args(argv)
    matplotlib.rcParams["svg.hashsalt"] = "ALIGN"  # the same bytes each time
    for name, palette in PALETTES.items():
        path = args.output / f"{name}.{args.format}"
        how: dict[str, Any] = {"dpi": 150, "facecolor": palette["ground"]}
        if args.format == "svg":
            how = {"transparent": True, "metadata": {"Date": None}}
        draw(palette).savefig(path, **how)
        print(path)


if __name__ == "__main__":
    run("method_figure", main)
