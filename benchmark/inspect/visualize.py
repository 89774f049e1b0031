"""Draw token-level transport plans over images: the patches that each word of a prompt goes to."""

import io
import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainers.prompting.errors import UserError, check_name

from ..cli import Parser, each, from_one, from_zero, write_output
from .load import load_run, run_parser, test_images

if TYPE_CHECKING:
    import numpy
    import torch

FORMATS = ("png", "pdf", "svg")
HUE, MOST_OPAQUE = "#d62728", 0.85  # of the largest share; the grey image stays visible below
GREY = (0.299, 0.587, 0.114)  # of red, green and blue in the luminance
DARKEST = -0.7  # black is drawn in a light grey, on which the hue is seen


class Map(NamedTuple):
    """The map of a word: its mass on each patch (side, side), as multiples of an even share."""

    word: str
    share: "torch.Tensor"


class Block(NamedTuple):
    """An image with a title, and the maps of each prompt."""

    image: "numpy.ndarray"
    title: str
    maps: dict[str, list[Map]]


def build_parser() -> Parser:
    """Return the parser of `python -m benchmark visualize`."""
    parser = run_parser(
        "python -m benchmark visualize",
        "Draw to which patches of an image each word of a prompt is transported. "
        "Several classes and test images make a sheet.",
    )
    add = parser.add_argument
    add("--image", type=Path, help="an image file (default: a test image of the class)")
    add(
        "--class-name", nargs="+", metavar="NAME",
        help="classes whose prompts are shown (default: that of the test image, and the likeliest "
        "for --image)",
    )  # fmt: skip
    add(
        "--index", type=each(from_zero), default="0",
        help="numbers of test images of each class, from 0 on, as in '0 1 2' (default: 0)",
    )  # fmt: skip
    add(
        "--prompts",
        type=each(from_one),
        help="numbers of the prompts to show, from 1 on (default: the first two)",
    )
    add(
        "--output", type=Path, default=Path("transport.png"),
        help=f"file to write; its name ends in {', '.join(FORMATS)} (default: transport.png)",
    )  # fmt: skip
    return parser


def main(argv: list[str]) -> int:
    """Load a run, solve the token level for each image and class, and draw the plans."""
    args = build_parser().parse_args(argv)
    for name in ("index", "prompts"):
        if getattr(args, name) == []:
            raise UserError(f"--{name} is empty: give at least one number")
    if args.output.suffix.lstrip(".") not in FORMATS:
        raise UserError(
            f"--output is '{args.output}': its name must end in .{' or .'.join(FORMATS)}"
        )
    run = load_run(args)
    point = getattr(run.model, "point", None)
    if point is None or not point.beta:
        raise UserError(
            f"the run in '{args.model_dir}' has no token-level transport: choose one that has, "
            "such as a run of ALIGN"
        )
    most = min(max(point.M, 1), max(point.N, 1))
    prompts = args.prompts or list(range(1, min(most, 2) + 1))
    if max(prompts) > most:
        raise UserError(
            f"--prompts has {max(prompts)}, but the run has {most} prompts: give numbers from "
            f"1 to {most}"
        )
    chosen = choose_images(run, args)
    blocks = [block(run, path, name, prompts) for path, name in chosen]
    draw_maps(args.output, blocks)
    for path, name in chosen:
        print(f"{args.output}: {path} against '{name}'")
    return 0


def owner(kind: type, name: str) -> type:
    """Return the class that defines an attribute of `kind`."""
    return next(base for base in kind.__mro__ if name in vars(base))


def choose_images(run, args) -> list[tuple[Path, str]]:
    """Choose the images to show, each with the class whose prompts are drawn on it."""
    for name in args.class_name or ():
        check_name("class", name, run.classnames)
    if args.image:
        if not os.path.isfile(args.image):
            raise UserError(f"--image: there is no file '{args.image}': check the path")
        return [(args.image, name) for name in args.class_name or [likeliest(run, args.image)]]
    images, choices = test_images(run), []
    for name in args.class_name or [None]:
        items = [item for item in images if name in (None, item.classname)]
        for index in args.index:
            if index >= len(items):
                of_class = f" of '{name}'" if name else ""
                raise UserError(
                    f"--index is {index} but there are {len(items)} test images{of_class}, "
                    "counted from 0"
                )
            choices.append((Path(items[index].impath), items[index].classname))
    return choices


def prepare(run, path: Path) -> "torch.Tensor":
    """Return an image as the run reads it, (3, H, W)."""
    return run.preprocess(run.read(path))


def likeliest(run, path: Path) -> str:
    """Return the class that the run predicts for an image."""
    import torch

    with torch.no_grad():
        logits = run.model(prepare(run, path)[None].to(run.model.device))
    return run.classnames[int(logits.argmax())]


def block(run, path: Path, name: str, prompts: list[int]) -> Block:
    """Compute the maps of some prompts of a class on an image."""
    import torch

    from trainers.prompting.encoders.sentences import SLOT, encode_after

    model, k = run.model, run.classnames.index(name)
    image = prepare(run, path)
    with torch.no_grad():
        output = model.output(image[None].to(model.device))
        plans = token_plans(model, output.image, output.text, k)
    tokenizer = model.text_encoder.tokenizer
    of_name = encode_after(tokenizer.encode, SLOT, name)
    of_class = [tokenizer.decode([token]).strip() for token in of_name]
    maps = {}
    for n in prompts:
        words = model.text_encoder.words(k, n - 1)
        # the states of visual prompts follow the patches, and padding the words
        T = plans[n - 1, n - 1, : model.image_encoder.num_patches, : len(words)].cpu()
        maps[f"prompt {n}"] = maps_of(T, words, of_class)
    return Block(denormalize(image, run.settings), f"'{name}'", maps)


def token_plans(model, image, text, k: int):
    """Return the plans T (M, N, P, L) between the tokens of one image and class k, as scored.

    Raises:
        UserError: a subclass computes other distances, but does not return their plans.
    """
    import torch

    kind = type(model)
    if not issubclass(owner(kind, "token_plan"), owner(kind, "token_level")):
        raise UserError(
            f"{kind.__name__} has a `token_level` of its own, but no `token_plan`: write one that "
            "returns its plan"
        )
    C = 1 - torch.einsum("mpd,nld->mnpl", image.r[0].float(), text.s[:, k].float())
    return model.token_plan(C, text.s_weights.mass[:, k])


def maps_of(T, words: list[str], of_class: list[str]) -> list[Map]:
    """Return maps of a plan T (P, L): of each learned word, and each word of the class name.

    Adjacent fixed words share a map.
    """

    def kind(place: int) -> object:
        alone = words[place].startswith("context ") or words[place] in of_class
        return place if alone else "fixed"

    maps = []
    for _, places in groupby(range(len(words)), kind):
        group = list(places)
        mass = T[:, group].sum(1)
        side = round(len(mass) ** 0.5)
        share = (mass / mass.sum() * len(mass)).reshape(side, side)
        maps.append(Map(" ".join(words[place] for place in group), share))
    return maps


def denormalize(image, cfg):
    """Return a normalised image (3, H, W) as (H, W, 3) with values from 0 to 1."""
    import torch

    mean = torch.tensor(cfg.INPUT.PIXEL_MEAN)[:, None, None]
    std = torch.tensor(cfg.INPUT.PIXEL_STD)[:, None, None]
    return (image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def draw_maps(output: Path, blocks: list[Block]) -> None:
    """Draw a block of rows for each image: the image, and a row of maps for each prompt.

    A map is the image in grey with more colour on patches to which more of the word's mass goes.
    All maps have the same scale.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = [maps for block in blocks for maps in block.maps.values()]
    columns = 1 + max(map(len, shown))
    figure = Figure(figsize=(1.4 * columns, 1.55 * len(shown) + 0.7), layout="constrained")
    grid = figure.add_gridspec(len(shown), columns)
    shares = [word_map.share for maps in shown for word_map in maps]
    least = min(0.9, *(float(share.min()) for share in shares))
    most = max(1.1, *(float(share.max()) for share in shares))
    scale, colours = Normalize(least, most), _colours()
    row = 0
    for block in blocks:
        axis = figure.add_subplot(grid[row, 0])
        axis.imshow(block.image)
        axis.set_title(block.title, fontsize=9)
        axis.axis("off")
        edge = len(block.image) - 0.5
        for prompt, maps in block.maps.items():
            for column, word_map in enumerate(maps, 1):
                axis = figure.add_subplot(grid[row, column])
                axis.imshow(block.image @ GREY, cmap="gray", vmin=DARKEST, vmax=1)
                axis.imshow(
                    word_map.share.numpy(), extent=(-0.5, edge, edge, -0.5), cmap=colours,
                    norm=scale, interpolation="bicubic",
                )  # fmt: skip
                axis.set(xticks=[], yticks=[])
                axis.set_frame_on(False)
                axis.set_title(word_map.word, fontsize=9)
                if column == 1:
                    axis.set_ylabel(prompt, fontsize=8)
            row += 1
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=figure.axes, location="bottom", shrink=0.5, aspect=30
    )
    bar.set_label("share of the word's mass (1: spread evenly)", fontsize=8)
    drawn = io.BytesIO()
    form = output.suffix.lstrip(".")
    figure.savefig(drawn, dpi=150, format=form, bbox_inches="tight", pad_inches=0.05)
    write_output(output, drawn.getvalue())


def _colours():
    """Return a map of one hue: transparent for the smallest share, opaque for the largest."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    ends = [to_rgba(HUE, 0), to_rgba(HUE, MOST_OPAQUE)]
    return LinearSegmentedColormap.from_list("shares", ends)
