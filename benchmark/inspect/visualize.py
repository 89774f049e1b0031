"""Draw what a run sees in images: where its transport plans take the words of a prompt."""

import io
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainers.prompting.errors import UserError, check_name

from ..cli import Parser, write_output
from .load import load_run, run_parser, test_images

if TYPE_CHECKING:
    import numpy
    import torch

PROMPTS = 2  # so many are shown
HUE, MOST_OPAQUE = "#d62728", 0.85  # of the largest share; the grey image stays visible below
LEARNED, MOST_LEARNED = "context ", 4  # words; more than so many share a map
GREY = (0.299, 0.587, 0.114)  # of red, green and blue in the luminance
DARKEST = -0.7  # black is drawn in a light grey, on which the hue is seen


class Map(NamedTuple):
    """The map of a word: its mass on each patch, as multiples of an even share, (side, side)."""

    word: str
    values: "torch.Tensor"


class Block(NamedTuple):
    """An image with a title, and rows of maps, by prompt."""

    image: "numpy.ndarray"
    title: str
    maps: dict[str, list[Map]]


def build_parser() -> Parser:
    """Return the parser of `python -m benchmark visualize`."""
    parser = run_parser(
        "python -m benchmark visualize",
        "Draw to which patches of an image each word of a prompt is transported. Several classes "
        "make a sheet.",
    )
    add = parser.add_argument
    add("--image", type=Path, help="an image file (default: the first test image of the class)")
    add(
        "--class-name", nargs="+", metavar="NAME",
        help="classes whose prompts are shown (default: that of the test image, and the likeliest "
        "for --image)",
    )  # fmt: skip
    add(
        "--output", type=Path, default=Path("transport.png"),
        help="file to write, in the format that its name ends in (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: list[str]) -> int:
    """Load a run, compute what is asked for, and draw it."""
    args = build_parser().parse_args(argv)
    run = load_run(args)
    point = getattr(run.model, "point", None)
    if point is None or not point.beta:
        raise UserError(
            f"'{args.model_dir}' is of {run.method} without transport between patches and words: "
            "choose a run of ALIGN or MMP whose BETA is above 0"
        )
    most = min(max(point.M, 1), max(point.N, 1))
    chosen = choose_images(run, args)
    shown = min(most, PROMPTS)
    draw_maps(args.output, [block(run, path, name, shown) for path, name in chosen])
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
        return [(args.image, name) for name in args.class_name or [likeliest(run, args.image)]]
    images = test_images(run)
    firsts = {item.classname: Path(item.impath) for item in reversed(images)}
    return [(firsts[name], name) for name in args.class_name or [images[0].classname]]


def prepare(run, path: Path) -> "torch.Tensor":
    """Return an image as the run reads it, (3, H, W); of several views, the plain one."""
    image = run.preprocess(run.read(path))
    return image[0] if isinstance(image, list) else image


def likeliest(run, path: Path) -> str:
    """Return the class that the run predicts for an image."""
    import torch

    with torch.no_grad():
        logits = run.model(prepare(run, path)[None].to(run.model.device))
    return run.classnames[int(logits.argmax())]


def block(run, path: Path, name: str, prompts: int) -> Block:
    """Compute the maps of the first prompts of a class on an image."""
    import torch

    model, k = run.model, run.classnames.index(name)
    image = prepare(run, path)
    with torch.no_grad():
        output = model.output(image[None].to(model.device))
        plans = token_plans(model, output.image, output.text, k)
    of_class, maps = words_of(model, name), {}
    for n in range(prompts):
        words = model.text_encoder.words(k, n)
        # the states of visual prompts follow the patches, and padding the words
        T = plans[n, n, : model.image_encoder.num_patches, : len(words)].cpu()
        maps[f"prompt {n + 1}"] = maps_of(T, words, of_class)
    return Block(denormalize(image, run.images), f"'{name}'", maps)


def words_of(model, name: str) -> list[str]:
    """Return the words of a class name, as the CLIP's tokenizer has them."""
    from trainers.prompting.encoders.sentences import SLOT, encode_after

    tokenizer = model.text_encoder.tokenizer
    tokens = encode_after(tokenizer.encode, SLOT, name)
    return [tokenizer.decode([token]).strip() for token in tokens]


def token_plans(model, image, text, k: int):
    """Return the plans T (M, N, P, L) between the tokens of one image and class k, as scored."""
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
    """Return maps of a plan T (P, L), of each of `groups`."""
    each = groups(words, of_class)
    mass = [T[:, places].sum(1) for places in each]
    shares = [square(m / m.sum() * len(m)) for m in mass]
    return list(map(Map, [join(words, places) for places in each], shares))


def groups(words: list[str], of_class: list[str]) -> list[list[int]]:
    """Return the places of words that share a map.

    Words of the class name are alone, as are learned ones if they are few; adjacent fixed words
    share.
    """
    many = sum(word.startswith(LEARNED) for word in words) > MOST_LEARNED

    def kind(place: int) -> object:
        if words[place].startswith(LEARNED):
            return "learned" if many else place
        return place if words[place] in of_class else "fixed"

    return [list(places) for _, places in groupby(range(len(words)), kind)]


def join(words: list[str], places: list[int]) -> str:
    """Return the title of a map: its words, or the first and the last of learned ones."""
    first, last = words[places[0]], words[places[-1]]
    if len(places) > 1 and first.startswith(LEARNED):
        return f"{first} to {last.removeprefix(LEARNED)}"
    return " ".join(words[place] for place in places)


def square(values: "torch.Tensor") -> "torch.Tensor":
    """Return values of patches (P,) as (side, side)."""
    side = round(len(values) ** 0.5)
    return values.reshape(side, side)


def denormalize(image, read):
    """Return a normalised image (3, H, W) as (H, W, 3) with values from 0 to 1."""
    import torch

    mean = torch.tensor(read.mean)[:, None, None]
    std = torch.tensor(read.std)[:, None, None]
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
    ranges = [[float(m.values.min()), float(m.values.max())] for maps in shown for m in maps]
    least, most = min(0.9, *(r[0] for r in ranges)), max(1.1, *(r[1] for r in ranges))
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
                    word_map.values.numpy(), extent=(-0.5, edge, edge, -0.5), cmap=colours,
                    norm=scale, interpolation="bicubic",
                )  # fmt: skip
                axis.set(xticks=[], yticks=[])
                axis.set_frame_on(False)
                axis.set_title(word_map.word, fontsize=9)
                if column == 1:
                    axis.set_ylabel(prompt, fontsize=8)
            row += 1
    colour = ScalarMappable(scale, colours)
    bar = figure.colorbar(colour, ax=figure.axes, location="bottom", shrink=0.5, aspect=30)
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
